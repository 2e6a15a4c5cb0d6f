// Hours, if asked: more than some may and less than others may, all the time. The counts of client, gateway, sluiced and upstream
// agree at the end, and what sluiced holds then is within a ratio of what it held when a fifth was over.
// A long one is judged minute by minute, so that a moment in which the machine stood still spoils one and not all.
import { sleep } from 'k6';
import { Trend } from 'k6/metrics';
import { rate, replicas, seconds, tenant } from '../lib/config.js';
import { keepPace, offer, operator, patience, recordSeen, vus } from '../lib/traffic.js';
import { allOf, always, counts, judge, judgeOver, judgeSeen, judgeUnder, overThresholds, report, seen, verdict, watch } from '../lib/summary.js';
import { over as bounds, part } from '../lib/bounds.js';

const over = ['smooth-1', 'contract-1', 'aligned-1'];
const under = ['smooth-2', 'contract-2', 'aligned-2'];
const tenants = [...over, ...under];
const length = seconds(15);
const minutes = Math.floor(length / 60);
const long = minutes >= 4;
const phases = [...Array(long ? minutes : 0).keys()].map(String);
/** The last minute has what is left, too. @param {number} second */
const phase = (second) => (long ? String(Math.min(minutes - 1, Math.floor(second / 60))) : 'all');
/** @param {string} id */
const perSecond = (id) => rate(id, over.includes(id) ? 1.5 : 0.8);
// In an hour any machine may stand still for longer; what is due meanwhile is sent late, and not dropped.
const scenarios = Object.fromEntries(tenants.map((id) => [id, offer(perSecond(id), length, long ? { preAllocatedVUs: 2 * vus(perSecond(id)) } : {})]));
const used = new Trend('sluice_used');
/** How many times what was held in the beginning may be held at the end. */
const growth = /** @type {Record<string, number>} */ ({ resident: 1.5, goroutines: 1.5, descriptors: 1.5 });
/** MiB that a process may take besides, once: three seconds after its start not all of it was used yet. */
const settling = 24;
const times = ['begin', 'end'];

export const options = {
  scenarios: { ...scenarios, operator: { executor: 'per-vu-iterations', exec: 'operate', vus: 1, iterations: 1, startTime: `${length / 5}s`, maxDuration: '120s' } },
  thresholds: Object.assign(
    {}, seen, always, ...tenants.map(thresholds),
    ...Object.keys(growth).flatMap((what) => times.map((at) => ({ [`sluice_used{what:${what},at:${at}}`]: ['min>0'] }))),
    long ? { sluice_unexpected: ['count>=0'] } : {},
  ),
};

/**
 * Of a long run half of the minutes must tell; the verdict holds each that does.
 * @param {string} id
 */
function thresholds(id) {
  if (__VU !== 0) { // options are read of the first VU, and hundreds would keep them
    return {};
  }
  const rate = perSecond(id);
  const all = over.includes(id) ? overThresholds(id, rate, length) : allOf(`tenant:${id}`, rate * length);
  if (!long) {
    return all;
  }
  const minute = over.includes(id) ? part(tenant(id).limits, { sent: rate * 60, first: 0, last: 60000, start: 0, rate, lag: patience }, patience).low : rate * 60;
  const least = `count>=${Math.floor((minute * minutes) / 2)}`;
  const most = all[`sluice_allowed{tenant:${id}}`][1];
  return Object.assign(
    watch(`tenant:${id}`), { [`sluice_allowed{tenant:${id}}`]: [least, most], [`sluice_unexpected{tenant:${id}}`]: ['count>=0'] },
    ...phases.map((p) => ({ ...watch(`tenant:${id},phase:${p}`), [`sluice_unexpected{tenant:${id},phase:${p}}`]: ['count>=0'] })),
  );
}

export function steady() {
  keepPace(scenarios, phase);
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

/**
 * Judges a tenant minute by minute, but for those in which an answer was later than {@link patience}, and those after them.
 * @param {import('../lib/summary.js').Verdict} v
 * @param {any} data
 * @param {string} id
 */
function judgeMinutes(v, data, id) {
  const all = counts(data, `tenant:${id}`);
  const { limits } = tenant(id);
  let [low, told, failed, before] = [0, 0, 0, 0];
  for (const [i, p] of phases.entries()) {
    const c = { ...counts(data, `tenant:${id},phase:${p}`), rate: perSecond(id), start: all.start + i * 60000 };
    const bound = under.includes(id) ? { low: c.sent, high: c.sent } : i === 0 ? bounds(limits, c) : part(limits, c, before);
    const clear = Math.max(c.lag, before) <= patience;
    if (c.allowed > bound.high || (clear && c.allowed < bound.low)) {
      v.problems.push(`${id}, minute ${i + 1}: ${c.allowed} of ${c.sent} allowed, want ${bound.low} to ${bound.high}`);
      v.excess ||= c.allowed > bound.high;
    }
    if (clear) {
      low += bound.low;
      told += 1;
      failed += c.unexpected;
    }
    before = c.lag;
  }
  // Minutes that are late were left out: that others are excuses nothing.
  judge(v, id, { ...all, lag: 0, unexpected: failed }, { low, high: under.includes(id) ? all.sent : bounds(limits, { ...all, rate: perSecond(id) }).high });
  v.notes.push(`${id}: ${told} of ${minutes} minutes were judged on both sides; in the others, or right before, an answer was later than ${patience} ms, ${Math.round(all.lag)} at most; ${all.unexpected} requests failed, in all`);
  if (told < minutes / 2) {
    v.problems.push(`${id}: only ${told} of ${minutes} minutes say something about the limiter`);
    v.doubts.push(`${id}: the machine stood still too often`);
  }
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  if (long) {
    tenants.forEach((id) => judgeMinutes(v, data, id));
  } else {
    over.forEach((id) => judgeOver(v, data, id, perSecond(id)));
    under.forEach((id) => judgeUnder(v, data, id));
  }
  judgeSeen(v, data, tenants);
  for (const [what, most] of Object.entries(growth)) {
    const [begin, end] = times.map((at) => data.metrics[`sluice_used{what:${what},at:${at}}`].values.min);
    v.notes.push(`${what}: ${begin} after a fifth of the time, ${end} at the end, ratio ${(end / begin).toFixed(2)}`);
    if (!(end <= begin * most + (what === 'resident' ? settling * replicas : 0))) {
      v.problems.push(`${what}: ${end} at the end is ${(end / begin).toFixed(2)} times the ${begin} of the beginning, want at most ${most}${what === 'resident' ? ` and ${settling} MiB a replica` : ''}`);
      v.excess ||= what !== 'resident'; // no busy machine excuses a leak; requests that it let pile up take memory, though
    }
  }
  return report('soak', data, v);
}
