// One tenant floods, the others stay within what they may: they see no refusal, whatever their algorithm.
import { rate, seconds } from '../lib/config.js';
import { keepPace, offer } from '../lib/traffic.js';
import { allOf, always, counts, judgeOver, judgeUnder, overThresholds, report, verdict } from '../lib/summary.js';

const flooding = 'smooth-1';
const others = ['smooth-2', 'contract-1', 'aligned-1'];
const length = seconds(6);
/** @type {Record<string, any>} */
const scenarios = {
  [flooding]: offer(rate(flooding, 5), length),
  ...Object.fromEntries(others.map((id) => [id, offer(rate(id, 0.8), length)])),
};

export const options = {
  scenarios,
  thresholds: Object.assign(
    {}, always, overThresholds(flooding, scenarios[flooding].rate, length),
    ...others.map((id) => allOf(`tenant:${id}`, scenarios[id].rate * length)),
  ),
};

export function steady() {
  keepPace(scenarios);
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  judgeOver(v, data, flooding, scenarios[flooding].rate);
  for (const id of others) {
    judgeUnder(v, data, id);
    v.notes.push(`${id}: p95 ${counts(data, `tenant:${id}`).p95.toFixed(1)} ms beside the flood`);
  }
  return report('isolation', data, v);
}
