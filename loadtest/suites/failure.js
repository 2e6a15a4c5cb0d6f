// A sluiced is killed while requests run, and started again. One alone: nobody is admitted without it, and what was used
// of a durable limit stays used. One of several on a shared store: nobody notices, and the limit is exact.
import { sleep } from 'k6';
import exec from 'k6/execution';
import { Trend } from 'k6/metrics';
import { binding, replicas, seconds } from '../lib/config.js';
import { keepPace, offer, operator, patience } from '../lib/traffic.js';
import { allOf, counts, judge, report, verdict, watch, within } from '../lib/summary.js';
import { most } from '../lib/bounds.js';

// By the second of the schedule at which a request is due.
const kill = seconds(2);
const edge = kill - patience / 1000; // what is due before is answered before
const gone = kill + 0.5; // by then it is gone
const down = kill + 1;
const restart = down + 1;
const after = restart + 5; // by then it serves again
const length = after + seconds(3);
const phases = ['before', 'kill', 'gone', 'down', 'restart', 'after'];

/** @type {Record<string, any>} */
const scenarios = { 'paid-1': offer(30, length), 'free-1': offer(20, length) };
const names = Object.keys(scenarios);
const happens = ['kill', 'gone', 'restart', 'back'];
const events = new Trend('sluice_event');

/** @param {number} second */
function phase(second) {
  return phases[[edge, gone, down, restart, after].filter((edge) => second >= edge).length];
}

export const options = {
  scenarios: { ...scenarios, operator: { executor: 'per-vu-iterations', exec: 'operate', vus: 1, iterations: 1, startTime: `${kill}s`, maxDuration: '120s' } },
  thresholds: Object.assign(
    { dropped_iterations: ['count==0'] }, ...happens.map((event) => ({ [`sluice_event{event:${event}}`]: ['max>0'] })),
    ...names.flatMap((id) => phases.map((p) => ({ ...watch(`tenant:${id},phase:${p}`), [`sluice_unexpected{tenant:${id},phase:${p}}`]: ['count>=0'] }))),
    ...names.map((id) => ({ ...bounds(id), [`sluice_unexpected{tenant:${id}}`]: ['count>=0'] })),
    { 'sluice_unexpected{phase:before}': ['count==0'], 'sluice_unexpected{phase:after}': ['count==0'] },
    replicas > 1 ? { sluice_unexpected: ['count==0'] } : { 'sluice_allowed{phase:down}': ['count==0'] },
  ),
};

/**
 * What a tenant is allowed at least and at most, of a schedule that is kept.
 * @param {string} id
 */
function bounds(id) {
  const limit = binding(id);
  const sent = scenarios[id].rate * length;
  if (limit.durable) {
    return within(`tenant:${id}`, limit.limit - lost(limit) - scenarios[id].rate * (gone - edge), most(limit, Date.now(), Date.now() + 60000));
  }
  // Alone, what is due from when it is killed until it serves again may be refused, and what is due while nobody is there must be.
  const away = (/** @type {number} */ from, /** @type {number} */ to) => Math.ceil(scenarios[id].rate * (to - from));
  return replicas > 1 ? allOf(`tenant:${id}`, sent) : within(`tenant:${id}`, sent - away(edge, after) - 1, sent - away(down, restart) + 2);
}

/**
 * What a crash spends: the open block of the journal.
 * @param {import('../lib/config.js').Limit} limit
 */
function lost(limit) {
  return replicas > 1 ? 0 : Math.ceil(limit.limit / 100);
}

export function steady() {
  keepPace(scenarios, phase);
}

export function operate() {
  const begin = exec.scenario.startTime - kill * 1000;
  const record = (/** @type {string} */ event) => events.add(Date.now(), { event });
  record('kill');
  operator('kill');
  record('gone');
  sleep(Math.max(0, begin + restart * 1000 + patience - Date.now()) / 1000);
  record('restart');
  operator('start');
  record('back');
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  const at = (/** @type {string} */ event) => data.metrics[`sluice_event{event:${event}}`].values.max;
  const start = Math.min(...names.map((id) => counts(data, `tenant:${id}`).start));
  const since = (/** @type {string} */ event) => (at(event) - start) / 1000;
  // Of several replicas all requests are answered, sooner or later, and phases do not matter.
  if (replicas === 1 && (since('gone') > gone || since('back') > after)) {
    v.doubts.push(`it was gone after ${since('gone')} s, and back after ${since('back')}; want ${gone} and ${after} at most`);
  }
  for (const id of names) {
    const all = counts(data, `tenant:${id}`);
    const part = Object.fromEntries(phases.map((p) => [p, counts(data, `tenant:${id},phase:${p}`)]));
    const other = { ...all, unexpected: part.before.unexpected + part.after.unexpected };
    const alone = replicas === 1;
    if (!alone) {
      other.unexpected = all.unexpected;
    } else {
      if (part.down.allowed > 0) {
        v.problems.push(`${id}: ${part.down.allowed} allowed while there was nobody to ask`);
      }
      if (part.before.last > at('kill') || part.down.last > at('restart')) {
        v.doubts.push(`${id}: it was killed or started before all was answered that was due earlier`);
      }
    }
    const limit = binding(id);
    if (limit.durable) {
      // A crash spends the open block of the journal, and answers on their way: they were charged, and nobody was told.
      const low = limit.limit - lost(limit) - (alone ? part.kill.unexpected : 0);
      judge(v, id, other, { low, high: most(limit, all.first, all.last) });
    } else {
      judge(v, id, other, { low: all.sent - all.unexpected, high: all.sent });
    }
  }
  v.notes.push(`killed after ${since('kill').toFixed(2)} s, gone after ${since('gone').toFixed(2)} s, started after ${since('restart').toFixed(2)} s, served after ${since('back').toFixed(2)} s`);
  return report('failure', data, v);
}
