// Through a client's sidecar that retries as Istio's does: the gateway sees each request once and the upstream each that was
// admitted once. A limiter whose refusals are retried is a limiter that makes load.
import { rate, seconds } from '../lib/config.js';
import { keepPace, offer, recordSeen } from '../lib/traffic.js';
import { always, judgeOver, judgeSeen, overThresholds, report, seen, verdict } from '../lib/summary.js';

const tenants = ['smooth-1', 'aligned-1'];
const length = seconds(6); // in 5 the edge of a window can fall so that nothing is refused
const scenarios = Object.fromEntries(tenants.map((id) => [id, offer(rate(id, 2), length)]));

export const options = {
  scenarios,
  thresholds: Object.assign({}, seen, always, ...tenants.map((id) => overThresholds(id, scenarios[id].rate, length))),
};

export function steady() {
  keepPace(scenarios);
}

export function teardown() {
  recordSeen();
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  tenants.forEach((id) => judgeOver(v, data, id, scenarios[id].rate));
  judgeSeen(v, data, tenants);
  return report('retries', data, v);
}
