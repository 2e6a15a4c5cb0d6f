// Through a client's sidecar that retries as Istio's does: the gateway sees each request once and the upstream each that was
// admitted once. A limiter whose refusals are retried is a limiter that makes load.
import { Trend } from 'k6/metrics';
import { rate, seconds } from '../lib/config.js';
import { keepPace, offer, operator } from '../lib/traffic.js';
import { always, counts, judgeOver, overThresholds, report, verdict } from '../lib/summary.js';

const tenants = ['smooth-1', 'aligned-1'];
const length = seconds(5);
const scenarios = Object.fromEntries(tenants.map((id) => [id, offer(rate(id, 2), length)]));
const seen = new Trend('sluice_seen');

export const options = {
  scenarios,
  thresholds: Object.assign(
    { 'sluice_seen{by:gateway}': ['max>0'], 'sluice_seen{by:upstream}': ['max>0'] },
    always, ...tenants.map((id) => overThresholds(id, scenarios[id].rate, length)),
  ),
};

export function steady() {
  keepPace(scenarios);
}

export function teardown() {
  const { gateway, upstream } = operator('counts');
  seen.add(gateway, { by: 'gateway' });
  seen.add(upstream, { by: 'upstream' });
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  tenants.forEach((id) => judgeOver(v, data, id, scenarios[id].rate));
  const all = tenants.map((id) => counts(data, `tenant:${id}`));
  for (const [by, want] of /** @type {[string, number][]} */ ([['gateway', sum(all.map((c) => c.sent))], ['upstream', sum(all.map((c) => c.allowed))]])) {
    const got = data.metrics[`sluice_seen{by:${by}}`].values.max;
    v.notes.push(`the ${by} saw ${got} requests, and should see ${want}`);
    if (got !== want) {
      v.problems.push(`the ${by} saw ${got} requests, want ${want}`);
    }
  }
  return report('retries', data, v);
}

/** @param {number[]} numbers */
function sum(numbers) {
  return numbers.reduce((a, b) => a + b, 0);
}
