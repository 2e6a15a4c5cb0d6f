// The path is there: each tenant is known and served under its name, a stranger is not, and a limit limits.
import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';
import { base, tenant, wiring } from '../lib/config.js';
import { ask, keepPace, offer } from '../lib/traffic.js';
import { always, counts, judge, judgeOver, overThresholds, report, verdict, within } from '../lib/summary.js';

const all = ['smooth-1', 'contract-1', 'aligned-1', 'layered-1', 'free-1'];
const length = 3; // in 2 midnight can fall so that nothing is refused
const scenarios = { 'trial-1': offer(10, length) };

export const options = {
  scenarios: { ...scenarios, once: { executor: 'per-vu-iterations', exec: 'once', vus: 1, iterations: 1, maxDuration: '60s' } },
  thresholds: Object.assign({ checks: ['rate==1'] }, always, overThresholds('trial-1', 10, length), ...all.map((id) => within(`tenant:${id}`, 1, 1))),
};

export function steady() {
  keepPace(scenarios);
}

export function once() {
  for (const id of all) {
    const { response } = ask(id);
    // The rate limit service knows nobody.
    check(response, { 'the upstream sees whose request it is': (r) => r.body === `hello ${wiring === 'rls' ? '' : id}\n` });
  }
  if (wiring !== 'rls') {
    /** @type {Record<string, string>[]} */
    const strangers = [{}, { 'x-api-key': `${tenant('free-1').key.slice(0, -4)}AAAA` }, { 'x-tenant-id': 'free-1' }];
    for (const headers of strangers) {
      const response = http.get(`${base}/v1/calls`, { headers, tags: { name: `stranger ${exec.scenario.name}` }, responseCallback: http.expectedStatuses(401) });
      check(response, { 'a stranger is refused': (r) => r.status === 401 });
    }
  }
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  judgeOver(v, data, 'trial-1', 10);
  for (const id of all) {
    judge(v, id, counts(data, `tenant:${id}`), { low: 1, high: 1 });
  }
  return report('smoke', data, v);
}
