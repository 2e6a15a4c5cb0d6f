// A step from half of what a tenant may to five times what it may and back: before it nothing is refused but what is so late that it meets
// the step, during it the bucket's burst goes through and then its rate, and after it no more is refused than finds the bucket full.
import exec from 'k6/execution';
import { binding, rate, seconds, tenant } from '../lib/config.js';
import { ask, due, patience, stairs } from '../lib/traffic.js';
import { always, counts, judge, report, verdict, within } from '../lib/summary.js';
import { least, most, recovered, spared } from '../lib/bounds.js';

const tenants = ['smooth-1', 'layered-1'];
const phases = ['before', 'spike', 'after'];

/** @type {Record<string, {rate: number, seconds: number}[]>} */
const steps = Object.fromEntries(
  tenants.map((id) => [id, [{ rate: rate(id, 0.5), seconds: seconds(2) }, { rate: rate(id, 5), seconds: seconds(2) }, { rate: rate(id, 0.5), seconds: seconds(2) }]]),
);

export const options = {
  scenarios: Object.fromEntries(tenants.map((id) => [id, stairs(steps[id])])),
  thresholds: Object.assign(
    {}, always,
    ...tenants.flatMap((id) => {
      const [before, , after] = steps[id].map((step) => step.rate * step.seconds);
      return [
        within(`tenant:${id},phase:before`, spared(before, steps[id][0].rate, patience), before + 1),
        within(`tenant:${id},phase:spike`, binding(id).burst - 1, most(binding(id), 0, steps[id][1].seconds * 1000 + patience)),
        { [`sluice_limited{tenant:${id},phase:spike}`]: ['count>0'] },
        within(`tenant:${id},phase:after`, recovered(after, steps[id][2].rate, patience), after + 1),
      ];
    }),
  ),
};

export function steady() {
  const s = exec.scenario;
  const { step, second } = due(steps[s.name], s.iterationInTest);
  ask(s.name, { due: s.startTime + second * 1000, phase: phases[step] });
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  for (const id of tenants) {
    const limit = tenant(id).limits[0];
    const [before, spike, after] = phases.map((phase) => counts(data, `tenant:${id},phase:${phase}`));
    const lag = Math.max(before.lag, spike.lag, after.lag);
    judge(v, `${id} before`, before, { low: spared(before.sent, steps[id][0].rate, before.lag), high: before.sent });
    // What came before may still be in the bucket: one request, and those that came late.
    const full = 1 + Math.ceil((steps[id][0].rate * lag) / 1000);
    const low = Math.max(0, least(limit, { ...spike, lag, rate: steps[id][1].rate }) - full);
    judge(v, `${id} spike`, spike, { low, high: Math.min(spike.sent, most(limit, spike.first, spike.last)) });
    judge(v, `${id} after`, after, { low: recovered(after.sent, steps[id][2].rate, lag), high: after.sent });
  }
  return report('burst', data, v);
}
