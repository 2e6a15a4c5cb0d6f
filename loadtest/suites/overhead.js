// The same request with the filter and without it, in pairs and in turn, on one Envoy: what the question costs. The figures
// are this machine's; the threshold is a guard rail.
import { check } from 'k6';
import exec from 'k6/execution';
import { base, seconds } from '../lib/config.js';
import { ask, offer } from '../lib/traffic.js';
import { allOf, always, counts, judge, report, verdict } from '../lib/summary.js';

const id = 'free-1';
const length = seconds(5);
const rate = 25;
/** The most ms by which the median may grow. */
const guard = 200;

export const options = {
  scenarios: { [id]: offer(rate, length) },
  thresholds: Object.assign({ checks: ['rate==1'] }, always, ...['on', 'off'].map((phase) => allOf(`tenant:${id},phase:${phase}`, rate * length))),
};

export function steady() {
  const on = () => check(ask(id, { phase: 'on' }).response, { 'with the filter the tenant is known': (r) => r.body === `hello ${id}\n` });
  const off = () => check(ask(id, { phase: 'off', url: `${base}/bare` }).response, { 'without it nobody is': (r) => r.body === 'hello \n' });
  const turn = exec.scenario.iterationInTest % 2 === 0 ? [on, off] : [off, on];
  turn.forEach((half) => half());
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  const [on, off] = ['on', 'off'].map((phase) => counts(data, `tenant:${id},phase:${phase}`));
  judge(v, `${id} on`, on, { low: on.sent, high: on.sent });
  judge(v, `${id} off`, off, { low: off.sent, high: off.sent });
  v.notes.push(`median ${off.p50.toFixed(2)} ms without, ${on.p50.toFixed(2)} with: ${(on.p50 - off.p50).toFixed(2)} more; p95 ${off.p95.toFixed(2)} and ${on.p95.toFixed(2)}`);
  if (on.p50 - off.p50 > guard) {
    v.problems.push(`the filter adds ${Math.round(on.p50 - off.p50)} ms to the median; the guard rail is ${guard}`);
  }
  if (off.p50 > guard / 2) {
    v.doubts.push(`the median without the filter is ${Math.round(off.p50)} ms, more than ${guard / 2}`);
  }
  return report('overhead', data, v);
}
