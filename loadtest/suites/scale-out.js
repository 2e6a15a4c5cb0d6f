// From one replica to all while requests run: the limit is the same, for it belongs to the tenant and not to a replica. Of a limit
// for a day the replicas together allow exactly so many, and each request is decided once.
// On the embedded store there is one replica, and it stays one.
import { Trend } from 'k6/metrics';
import { rate, replicas, seconds } from '../lib/config.js';
import { keepPace, offer, operator, recordSeen } from '../lib/traffic.js';
import { always, counts, judgeOver, judgeSeen, overThresholds, report, seen, verdict } from '../lib/summary.js';

const daily = 'paid-1';
const tenants = ['smooth-1', 'contract-1', 'aligned-1', daily];
const scale = seconds(3);
const known = scale + seconds(6); // by then Envoy asks each replica
const length = known + seconds(2);
const scenarios = Object.fromEntries(tenants.map((id) => [id, offer(id === daily ? 30 : rate(id, 2), length)]));
const decided = new Trend('sluice_decided');
const scaled = new Trend('sluice_scaled');
const indices = [...Array(replicas).keys()];

export const options = {
  scenarios: { ...scenarios, operator: { executor: 'per-vu-iterations', exec: 'operate', vus: 1, iterations: 1, startTime: `${scale}s`, maxDuration: '120s' } },
  thresholds: Object.assign(
    {}, seen, always, ...tenants.map((id) => overThresholds(id, scenarios[id].rate, length)),
    { sluice_scaled: ['max>0'] },
    // Each replica answered a part of it.
    ...indices.map((i) => ({ [`sluice_decided{replica:${i}}`]: ['min>0'] })),
  ),
};

export function setup() {
  operator('scale?replicas=1');
}

export function steady() {
  keepPace(scenarios);
}

export function operate() {
  operator(`scale?replicas=${replicas}`);
  scaled.add(Date.now());
}

export function teardown() {
  recordSeen().decided.forEach((/** @type {number} */ n, /** @type {number} */ i) => decided.add(n, { replica: String(i) }));
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  tenants.forEach((id) => judgeOver(v, data, id, scenarios[id].rate));
  judgeSeen(v, data, tenants);
  const after = (data.metrics.sluice_scaled.values.max - Math.min(...tenants.map((id) => counts(data, `tenant:${id}`).start))) / 1000;
  if (!(after > 0 && after <= known)) {
    v.doubts.push(`Envoy asked each replica after ${after} s; want ${known} at most`);
  }
  v.notes.push(`decided by replica: ${indices.map((i) => data.metrics[`sluice_decided{replica:${i}}`].values.max).join(', ')}`);
  return report('scale-out', data, v);
}
