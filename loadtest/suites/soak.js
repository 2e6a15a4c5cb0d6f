// Hours, if asked: more than some may and less than others may, all the time. The counts of client, gateway, sluiced and upstream
// agree at the end, and what sluiced holds then is within a ratio of what it held when a fifth was over.
import { sleep } from 'k6';
import { Trend } from 'k6/metrics';
import { rate, seconds } from '../lib/config.js';
import { keepPace, offer, operator, recordSeen } from '../lib/traffic.js';
import { allOf, always, judgeOver, judgeSeen, judgeUnder, overThresholds, report, seen, verdict } from '../lib/summary.js';

const over = ['smooth-1', 'contract-1', 'aligned-1'];
const under = ['smooth-2', 'contract-2', 'aligned-2'];
const length = seconds(15);
const scenarios = Object.fromEntries([...over.map((id) => [id, offer(rate(id, 1.5), length)]), ...under.map((id) => [id, offer(rate(id, 0.8), length)])]);
const used = new Trend('sluice_used');
/** By how much what is held at the end may exceed what was held in the beginning. */
const growth = /** @type {Record<string, number>} */ ({ resident: 1.5, goroutines: 1.5, descriptors: 1.5 });
const times = ['begin', 'end'];

export const options = {
  scenarios: { ...scenarios, operator: { executor: 'per-vu-iterations', exec: 'operate', vus: 1, iterations: 1, startTime: `${length / 5}s`, maxDuration: '120s' } },
  thresholds: Object.assign(
    {}, seen, always, ...over.map((id) => overThresholds(id, scenarios[id].rate, length)), ...under.map((id) => allOf(`tenant:${id}`, scenarios[id].rate * length)),
    ...Object.keys(growth).flatMap((what) => times.map((at) => ({ [`sluice_used{what:${what},at:${at}}`]: ['min>0'] }))),
  ),
};

export function steady() {
  keepPace(scenarios);
}

/**
 * Looks several times, for a request in flight has a goroutine: the least is what is held.
 * @param {string} at
 */
function look(at) {
  for (let i = 0; i < 5; i++) {
    const now = operator('counts').used;
    Object.keys(growth).forEach((what) => used.add(now[what], { what, at }));
    sleep(0.2);
  }
}

export function operate() {
  look('begin');
}

export function teardown() {
  look('end');
  recordSeen();
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  over.forEach((id) => judgeOver(v, data, id, scenarios[id].rate));
  under.forEach((id) => judgeUnder(v, data, id));
  judgeSeen(v, data, [...over, ...under]);
  for (const [what, most] of Object.entries(growth)) {
    const [begin, end] = times.map((at) => data.metrics[`sluice_used{what:${what},at:${at}}`].values.min);
    v.notes.push(`${what}: ${begin} after a fifth of the time, ${end} at the end, ratio ${(end / begin).toFixed(2)}`);
    if (!(end <= begin * most)) {
      v.problems.push(`${what}: ${end} at the end is ${(end / begin).toFixed(2)} times the ${begin} of the beginning, want at most ${most}`);
      v.excess = true; // which no busy machine excuses
    }
  }
  return report('soak', data, v);
}
