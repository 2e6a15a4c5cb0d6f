// Four fifths of what each tenant may: nothing is refused.
import { rate, seconds } from '../lib/config.js';
import { keepPace, offer } from '../lib/traffic.js';
import { allOf, always, judgeUnder, report, verdict } from '../lib/summary.js';

const tenants = ['smooth-1', 'smooth-2', 'contract-1', 'aligned-1', 'layered-1'];
const length = seconds(6);
const scenarios = Object.fromEntries(tenants.map((id) => [id, offer(rate(id, 0.8), length)]));

export const options = {
  scenarios,
  thresholds: Object.assign({}, always, ...tenants.map((id) => allOf(`tenant:${id}`, scenarios[id].rate * length))),
};

export function steady() {
  keepPace(scenarios);
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  tenants.forEach((id) => judgeUnder(v, data, id));
  return report('under', data, v);
}
