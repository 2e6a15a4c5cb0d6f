// The verdict of a run: what each tenant was allowed beside what the algorithm's bounds are for the times that were
// measured, as a table, as JSON and as JUnit. Nothing is fetched from anywhere.
import { out, store, tenant, wiring } from './config.js';
import { over, planned } from './bounds.js';
import { patience } from './traffic.js';

/**
 * @typedef {object} Row
 * @property {string} name what is judged: a tenant, or a tenant's phase
 * @property {string} algorithm
 * @property {number} sent
 * @property {number} allowed
 * @property {number} limited
 * @property {number} unexpected
 * @property {number} low
 * @property {number} high
 * @property {number} [ideal] by a log of all hits; only where more was offered than may be
 */

/**
 * Doubts are why the machine may be the cause of problems, unless there is excess: more was allowed than may be. They count only where there are problems:
 * a bound that holds for requests that are late holds.
 * @typedef {{rows: Row[], problems: string[], doubts: string[], notes: string[], excess: boolean}} Verdict
 */

/**
 * The sub-metrics of a tenant that a verdict reads. k6 keeps apart by tag only what a threshold names.
 * @param {string} selector such as tenant:acme
 * @returns {Record<string, string[]>}
 */
export function watch(selector) {
  return {
    [`sluice_allowed{${selector}}`]: ['count>=0'],
    [`sluice_limited{${selector}}`]: ['count>=0'],
    [`sluice_unexpected{${selector}}`]: ['count==0'],
    [`sluice_sent_at{${selector}}`]: ['min>=0'],
    [`sluice_answered_at{${selector}}`]: ['max>=0'],
    [`sluice_started_at{${selector}}`]: ['min>=0'],
    [`sluice_lag{${selector}}`]: ['max>=0'],
    [`sluice_took{${selector}}`]: ['p(95)>=0'],
  };
}

/**
 * Thresholds on both sides of what is allowed.
 * @param {string} selector such as tenant:acme
 * @param {number} low
 * @param {number} high
 * @returns {Record<string, string[]>}
 */
export function within(selector, low, high) {
  return { ...watch(selector), [`sluice_allowed{${selector}}`]: [`count>=${low}`, `count<=${high}`] };
}

/**
 * Thresholds for a tenant that stays within what it may: all is allowed.
 * @param {string} selector such as tenant:acme
 * @param {number} sent
 * @returns {Record<string, string[]>}
 */
export function allOf(selector, sent) {
  // k6 sends one more, at the end of a constant rate.
  return { ...within(selector, sent, sent + 1), [`sluice_limited{${selector}}`]: ['count==0'] };
}

/**
 * Thresholds on both sides for a tenant that is offered more than it may. They hold for every run within
 * {@link patience}; the verdict is closer, for it knows what was measured.
 * @param {string} id
 * @param {number} rate
 * @param {number} seconds
 * @returns {Record<string, string[]>}
 */
export function overThresholds(id, rate, seconds) {
  if (__VU !== 0) { // options are read of the first VU
    return {};
  }
  const { low, high } = planned(tenant(id).limits, rate, seconds, patience, Date.now());
  const sent = rate * seconds;
  if (high >= sent) {
    throw new Error(`${id}: all of ${rate} requests a second for ${seconds} s may be allowed, so that they show no limit; let the suite run longer`);
  }
  return { ...within(`tenant:${id}`, low, high), [`sluice_limited{tenant:${id}}`]: [`count>=${sent - high}`] };
}

/** What every run must keep: each request was sent, and nothing but 200 and 429 came. */
export const always = { dropped_iterations: ['count==0'], sluice_unexpected: ['count==0'] };

/**
 * @param {any} data k6's summary
 * @param {string} selector
 */
export function counts(data, selector) {
  /** @type {(name: string, key: string) => number} */
  const value = (name, key) => {
    const metric = data.metrics[`${name}{${selector}}`];
    return (metric && metric.values[key]) || 0;
  };
  const allowed = value('sluice_allowed', 'count');
  const limited = value('sluice_limited', 'count');
  const unexpected = value('sluice_unexpected', 'count');
  return {
    sent: allowed + limited + unexpected, allowed, limited, unexpected,
    first: value('sluice_sent_at', 'min'), last: value('sluice_answered_at', 'max'), start: value('sluice_started_at', 'min'),
    lag: value('sluice_lag', 'max'), p50: value('sluice_took', 'med'), p95: value('sluice_took', 'p(95)'),
  };
}

/** @returns {Verdict} */
export function verdict() {
  return { rows: [], problems: [], doubts: [], notes: [], excess: false };
}

/**
 * Judges a tenant that was offered more than it may.
 * @param {Verdict} v
 * @param {any} data
 * @param {string} id
 * @param {number} rate
 */
export function judgeOver(v, data, id, rate) {
  const c = counts(data, `tenant:${id}`);
  judge(v, id, c, over(tenant(id).limits, { ...c, rate }));
}

/**
 * Judges a tenant that stays within what it may: all is admitted.
 * @param {Verdict} v
 * @param {any} data
 * @param {string} id
 */
export function judgeUnder(v, data, id) {
  const c = counts(data, `tenant:${id}`);
  judge(v, id, c, { low: c.sent, high: c.sent });
}

/**
 * @param {Verdict} v
 * @param {string} name
 * @param {{sent: number, allowed: number, limited: number, unexpected: number, lag: number}} c
 * @param {{low: number, high: number, ideal?: number}} bound
 */
export function judge(v, name, c, bound) {
  const id = name.split(' ')[0];
  v.rows.push({ name, algorithm: tenant(id).limits[0].algorithm, sent: c.sent, allowed: c.allowed, limited: c.limited, unexpected: c.unexpected, ...bound });
  if (c.sent === 0) {
    v.problems.push(`${name}: nothing was sent`);
  }
  if (c.allowed < bound.low || c.allowed > bound.high) {
    v.problems.push(`${name}: ${c.allowed} of ${c.sent} allowed, want ${range(bound)}`);
  }
  v.excess ||= c.allowed > bound.high;
  if (c.unexpected > 0) {
    v.problems.push(`${name}: ${c.unexpected} answers were neither 200 nor 429`);
  }
  if (c.lag > patience) {
    v.doubts.push(`${name}: an answer came ${Math.round(c.lag)} ms after its request was due, more than ${patience}`);
  }
}

/** @param {{low: number, high: number}} bound */
function range(bound) {
  return bound.low === bound.high ? String(bound.low) : `${bound.low} to ${bound.high}`;
}

/** What judgeSeen reads. */
export const seen = { 'sluice_seen{by:gateway}': ['max>0'], 'sluice_seen{by:upstream}': ['max>0'], 'sluice_seen{by:sluiced}': ['max>0'] };

/**
 * Holds what the path counted against what was sent to it: each request came once, was decided once, and reached the upstream if it was allowed.
 * @param {Verdict} v
 * @param {any} data
 * @param {string[]} tenants all that sent
 * @param {number} strangers more requests, which no limit is asked for
 */
export function judgeSeen(v, data, tenants, strangers = 0) {
  const all = tenants.map((id) => counts(data, `tenant:${id}`));
  const sent = sum(all.map((c) => c.sent));
  for (const [by, want] of /** @type {[string, number][]} */ ([['gateway', sent + strangers], ['sluiced', sent], ['upstream', sum(all.map((c) => c.allowed))]])) {
    const got = data.metrics[`sluice_seen{by:${by}}`].values.max;
    v.notes.push(`the ${by} saw ${got} requests, and should see ${want}`);
    if (got !== want) {
      v.problems.push(`the ${by} saw ${got} requests, want ${want}`);
    }
  }
}

/** @param {number[]} numbers */
function sum(numbers) {
  return numbers.reduce((a, b) => a + b, 0);
}

/**
 * The answer of handleSummary.
 * @param {string} suite
 * @param {any} data
 * @param {Verdict} v
 */
export function report(suite, data, v) {
  const dropped = data.metrics.dropped_iterations ? data.metrics.dropped_iterations.values.count : 0;
  if (dropped > 0) {
    v.doubts.push(`${dropped} requests were not sent, because all VUs were waiting`);
  }
  for (const [name, metric] of Object.entries(data.metrics)) {
    for (const [expression, threshold] of Object.entries(metric.thresholds || {})) {
      if (!threshold.ok) {
        v.problems.push(`threshold ${name}: ${expression}`);
      }
    }
  }
  const result = v.problems.length === 0 ? 'green' : v.doubts.length > 0 && !v.excess ? 'unclear' : 'red';
  const summary = { suite, store, wiring, result, ...v };
  return {
    stdout: `${table(summary)}\n`,
    [`${out}/${suite}.json`]: `${JSON.stringify(summary, null, 2)}\n`,
    [`${out}/${suite}.xml`]: junit(summary),
  };
}

/** @param {{suite: string, store: string, wiring: string, result: string} & Verdict} s */
function table(s) {
  const head = ['tenant', 'algorithm', 'sent', 'allowed', 'limited', 'other', 'expected'];
  const lines = [head, ...s.rows.map((r) => [r.name, r.algorithm, r.sent, r.allowed, r.limited, r.unexpected, range(r)].map(String))];
  const widths = head.map((_, i) => Math.max(...lines.map((l) => l[i].length)));
  return [
    `${s.suite} on ${s.store}, ${s.wiring}: ${s.result}`,
    ...lines.map((l) => `  ${l.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')}`),
    ...s.notes.map((n) => `  ${n}`),
    ...s.problems.map((p) => `  problem: ${p}`),
    ...s.doubts.map((d) => `  doubt: ${d}`),
  ].join('\n');
}

/** @param {{suite: string, store: string, wiring: string, result: string} & Verdict} s */
function junit(s) {
  const failed = s.problems.length > 0 ? [...s.problems, ...s.doubts] : [];
  const body = failed.length > 0 ? `<failure message="${escape(failed[0])}">${escape(failed.join('\n'))}</failure>` : '';
  return `<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="loadtest ${s.store} ${s.wiring}" tests="1" failures="${failed.length > 0 ? 1 : 0}">
  <testcase classname="loadtest.${s.wiring}.${s.store}" name="${s.suite}">${body}</testcase>
</testsuite>
`;
}

/** @param {string} text */
function escape(text) {
  return text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}
