// Hours, if asked: more than some may and less than others may, all the time. The counts stay what they were in the first
// minute, and the server's memory does, too.
import { Trend } from 'k6/metrics';
import { rate, seconds } from '../lib/config.js';
import { keepPace, offer, operator } from '../lib/traffic.js';
import { always, judgeOver, judgeUnder, overThresholds, report, verdict, watch } from '../lib/summary.js';

const over = ['smooth-1', 'contract-1', 'aligned-1'];
const under = ['smooth-2', 'contract-2', 'aligned-2'];
const length = seconds(120);
const scenarios = Object.fromEntries([...over.map((id) => [id, offer(rate(id, 1.5), length)]), ...under.map((id) => [id, offer(rate(id, 0.8), length)])]);
const resident = new Trend('sluice_resident');
/** By how many MiB the server may grow. */
const growth = 64;

export const options = {
  scenarios,
  thresholds: Object.assign(
    { 'sluice_resident{at:begin}': ['max>0'], 'sluice_resident{at:end}': ['max>0'] }, always,
    ...over.map((id) => overThresholds(id, scenarios[id].rate, length)), ...under.map((id) => watch(`tenant:${id}`)),
  ),
};

export function setup() {
  resident.add(operator('counts').residentMiB, { at: 'begin' });
}

export function steady() {
  keepPace(scenarios);
}

export function teardown() {
  resident.add(operator('counts').residentMiB, { at: 'end' });
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  over.forEach((id) => judgeOver(v, data, id, scenarios[id].rate));
  under.forEach((id) => judgeUnder(v, data, id));
  const [begin, end] = ['begin', 'end'].map((at) => data.metrics[`sluice_resident{at:${at}}`].values.max);
  v.notes.push(`sluiced has ${begin.toFixed(0)} MiB resident at the beginning, ${end.toFixed(0)} at the end`);
  if (end - begin > growth) {
    v.problems.push(`sluiced grew by ${(end - begin).toFixed(0)} MiB, want at most ${growth}`);
  }
  return report('soak', data, v);
}
