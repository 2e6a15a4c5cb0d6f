// Used up, refused, and back when Retry-After says: a request before that time is refused, one after it is not, and it is no
// later than the plan gives.
import { check, sleep } from 'k6';
import exec from 'k6/execution';
import { binding } from '../lib/config.js';
import { ask } from '../lib/traffic.js';
import { always, counts, judge, report, verdict, watch, within } from '../lib/summary.js';
import { most } from '../lib/bounds.js';

const tenants = ['refill-smooth-1', 'refill-contract-1', 'refill-aligned-1'];
const phases = ['drain', 'early', 'back'];
/** How long before the earliest time that Retry-After can mean a request is sent which must be refused. */
const early = 300;
/** The most ms that using it up may take. */
const enough = 5000;

/** @param {string} id */
function full(id) {
  return binding(id).burst || binding(id).limit;
}

export const options = {
  scenarios: Object.fromEntries(tenants.map((id) => [id, { executor: 'per-vu-iterations', exec: 'refill', vus: 1, iterations: 1, maxDuration: '120s' }])),
  thresholds: Object.assign(
    { checks: ['rate==1'] }, always,
    ...tenants.flatMap((id) => [
      within(`tenant:${id},phase:drain`, full(id), most(binding(id), 0, enough)), watch(`tenant:${id},phase:early`), within(`tenant:${id},phase:back`, 1, 1),
    ]),
  ),
};

/** @param {number} at ms since 1970 */
function sleepUntil(at) {
  sleep(Math.max(0, at - Date.now()) / 1000);
}

export function refill() {
  const id = exec.scenario.name;
  const limit = binding(id);
  if (limit.algorithm === 'fixed') { // from the beginning of a window, so that all falls into one
    sleepUntil((Math.floor(Date.now() / limit.windowMs) + 1) * limit.windowMs + 20);
  }
  let last = ask(id, { phase: 'drain' });
  for (let i = 1; i < 3 * full(id) && last.response.status === 200; i++) {
    last = ask(id, { phase: 'drain' });
  }
  if (!check(last.response, { 'it can be used up': (r) => r.status === 429 })) {
    return;
  }
  const seconds = Number(last.response.headers['Retry-After']);
  // Of gcra one hit is free after its share of the window; of the others, at the latest after all of it.
  const longest = limit.algorithm === 'gcra' ? limit.windowMs / limit.limit : limit.windowMs;
  check(last.response, { 'Retry-After is whole seconds, and not longer than the plan gives': () => seconds >= 1 && seconds <= Math.ceil(longest / 1000) });
  if (!(seconds >= 1)) {
    return;
  }
  // Whole seconds are rounded up: it is free no earlier than a second before.
  const before = last.sent + (seconds - 1) * 1000;
  const due = before - early;
  if (due > Date.now()) {
    sleepUntil(due);
    if (Date.now() < due + early / 2) { // one that is late may be admitted, and take the place of the next
      ask(id, { phase: 'early', due });
    }
  }
  sleepUntil(last.answered + seconds * 1000);
  ask(id, { phase: 'back' });
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  for (const id of tenants) {
    const limit = binding(id);
    const [drain, before, back] = phases.map((phase) => counts(data, `tenant:${id},phase:${phase}`));
    judge(v, `${id} drain`, drain, { low: full(id), high: most(limit, drain.first, drain.last) });
    if (drain.last - drain.first > enough) {
      v.doubts.push(`${id}: using it up took ${Math.round(drain.last - drain.first)} ms, more than ${enough}`);
    }
    if (before.sent > 0 && before.lag < early) { // one that was answered later says nothing
      judge(v, `${id} early`, before, { low: 0, high: 0 });
    } else if (before.allowed > 0) {
      v.doubts.push(`${id}: a request that was to be early was answered ${Math.round(before.lag)} ms late, and may have taken the place of the next`);
    }
    judge(v, `${id} back`, back, { low: 1, high: 1 });
  }
  return report('refill', data, v);
}
