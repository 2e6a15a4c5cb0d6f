// What an answer says about a limit is true: the policy is the plan's, what is left falls by one with each request, and a
// refusal is a problem document with a time to come back.
import { check } from 'k6';
import exec from 'k6/execution';
import { binding } from '../lib/config.js';
import { ask } from '../lib/traffic.js';
import { always, counts, judge, report, verdict, within } from '../lib/summary.js';
import { most } from '../lib/bounds.js';

// Of a day, so that what is left does not grow meanwhile; and one of seconds, of which it does.
const counted = 'trial-1';
const tenants = [counted, 'contract-1', 'aligned-1', 'smooth-1'];
/** The most ms that all requests of a tenant may take, with what comes before them. */
const enough = 30000;

/** @param {string} id */
function sends(id) {
  return binding(id).limit + 2;
}

/** @param {string} id */
function full(id) {
  return Math.min(sends(id), binding(id).burst || binding(id).limit);
}

export const options = {
  scenarios: Object.fromEntries(tenants.map((id) => [id, { executor: 'per-vu-iterations', exec: 'headers', vus: 1, iterations: 1, maxDuration: '120s' }])),
  thresholds: Object.assign({ checks: ['rate==1'] }, always, ...tenants.map((id) => within(`tenant:${id}`, full(id), Math.min(sends(id), most(binding(id), Date.now(), Date.now() + enough))))),
};

/**
 * The fields of RFC draft-ietf-httpapi-ratelimit-headers: "name";r=9;t=3 and "name";q=10;w=60.
 * @param {string | undefined} field
 * @param {string} policy
 * @returns {Record<string, number>}
 */
function parse(field, policy) {
  for (const item of (field || '').split(',')) {
    const [name, ...parameters] = item.trim().split(';');
    if (name === `"${policy}"`) {
      return Object.fromEntries(parameters.map((p) => [p.split('=')[0], Number(p.split('=')[1])]));
    }
  }
  return {};
}

export function headers() {
  const id = exec.scenario.name;
  const limit = binding(id);
  const capacity = limit.burst || limit.limit;
  let left = capacity;
  let reset = 0;
  for (let i = 0; i < sends(id); i++) {
    const { response } = ask(id);
    const now = parse(response.headers['Ratelimit'], limit.name);
    const policy = parse(response.headers['Ratelimit-Policy'], limit.name);
    check(policy, { 'the policy is what the plan says': (p) => p.q === limit.limit && p.w === limit.windowMs / 1000 });
    check(now, { 'what is left is between nothing and all': (n) => n.r >= 0 && n.r <= capacity });
    if (id === counted && now.t <= reset + 1) { // else another day began
      check(now, { 'what is left falls by one with each request': (n) => n.r === Math.max(0, left - 1) });
    }
    left = now.r;
    reset = i === 0 ? now.t : reset;
    if (response.status === 429) {
      check(response, {
        'a refusal says when to come back': (r) => Number(r.headers['Retry-After']) >= 1,
        'a refusal is a problem document': (r) => r.headers['Content-Type'] === 'application/problem+json',
        'a refusal names the policy and the decision': (r) => {
          const problem = /** @type {any} */ (r.json());
          return problem['violated-policies'].includes(limit.name) && problem['decision-id'].length > 0;
        },
        'a refusal leaves nothing': () => now.r === 0,
      });
    }
  }
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  for (const id of tenants) {
    const limit = binding(id);
    const c = counts(data, `tenant:${id}`);
    judge(v, id, c, { low: full(id), high: Math.min(c.sent, most(limit, c.first, c.last)) });
    if (c.last - c.first > enough / 2) {
      v.doubts.push(`${id}: its requests took ${Math.round(c.last - c.first)} ms, more than ${enough / 2}`);
    }
  }
  return report('headers', data, v);
}
