// Twice what each tenant may: each gets what its algorithm's bounds say, not a request less or more.
import { rate, seconds } from '../lib/config.js';
import { keepPace, offer } from '../lib/traffic.js';
import { always, judgeOver, overThresholds, report, verdict } from '../lib/summary.js';

const tenants = ['smooth-1', 'contract-1', 'aligned-1', 'layered-1'];
const length = seconds(8);
const scenarios = Object.fromEntries(tenants.map((id) => [id, offer(rate(id, 2), length)]));

export const options = {
  scenarios,
  thresholds: Object.assign({}, always, ...tenants.map((id) => overThresholds(id, scenarios[id].rate, length))),
};

export function steady() {
  keepPace(scenarios);
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  tenants.forEach((id) => judgeOver(v, data, id, scenarios[id].rate));
  return report('over', data, v);
}
