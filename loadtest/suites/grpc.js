// Calls of a gRPC service behind Envoy, twice what each tenant may: the same bounds as over HTTP, and a refusal is a gRPC status that no client retries.
// Who is unknown, is UNAUTHENTICATED; what a rule forbids, PERMISSION_DENIED.
import grpc from 'k6/net/grpc';
import { check } from 'k6';
import exec from 'k6/execution';
import { address, protos, rate, seconds, tenant, wiring } from '../lib/config.js';
import { call, credentials, offer, pace, recordSeen } from '../lib/traffic.js';
import { always, judgeOver, judgeSeen, overThresholds, report, seen, verdict } from '../lib/summary.js';

const service = 'voicecore.calls.v1.Calls';
const tenants = ['smooth-1', 'contract-1', 'aligned-1'];
const length = seconds(6); // in 5 the edge of a window can fall so that nothing is refused
const scenarios = Object.fromEntries(tenants.map((id) => [id, offer(rate(id, 2), length)]));

const client = new grpc.Client();
client.load([protos], 'voicecore/calls/v1/calls.proto');
let connected = false;

export const options = {
  scenarios: { ...scenarios, once: { executor: 'per-vu-iterations', exec: 'once', vus: 1, iterations: 1, maxDuration: '60s' } },
  thresholds: Object.assign({ checks: ['rate==1'] }, seen, always, ...tenants.map((id) => overThresholds(id, scenarios[id].rate, length))),
};

/** A VU keeps its connection: else each call would pay for a new one. */
function connect() {
  if (!connected) {
    client.connect(address, { plaintext: true, timeout: '30s' });
    connected = true;
  }
}

export function steady() {
  connect();
  const id = exec.scenario.name;
  const response = call(id, client, `${service}/Place`, { to: 'sip:someone@example.com', longestSeconds: 600 }, pace(scenarios).at);
  if (response.status === grpc.StatusOK) {
    const message = /** @type {any} */ (response.message);
    check(message, {
      'the service gets what was sent': (m) => m.longestSeconds === '600',
      'the service sees whose call it is': (m) => m.tenant === (wiring === 'rls' ? '' : id),
    });
  } else if (wiring !== 'rls') { // Envoy's own refusals say no more than the status
    const details = String(/** @type {any} */ (response.trailers)['grpc-status-details-bin']);
    check(details, {
      'a refusal says when to come back': (d) => d.includes('google.rpc.RetryInfo'),
      'a refusal says which limit it is': (d) => d.includes('google.rpc.QuotaFailure') && tenant(id).limits.some((l) => d.includes(l.name)),
    });
  }
}

export function once() {
  connect();
  if (wiring === 'rls') {
    return; // it knows nobody
  }
  /** @type {[string, string, object, number][]} */
  const refused = [
    ['no key', 'Place', {}, grpc.StatusUnauthenticated],
    ['a wrong key', 'Place', { 'x-api-key': `${tenant('free-1').key.slice(0, -4)}AAAA` }, grpc.StatusUnauthenticated],
    ['a tenant by its name', 'Place', { 'x-tenant-id': 'free-1' }, grpc.StatusUnauthenticated],
    ['what a rule forbids', 'Listen', credentials('free-1'), grpc.StatusPermissionDenied],
  ];
  for (const [what, method, metadata, status] of refused) {
    const response = client.invoke(`${service}/${method}`, {}, { metadata, tags: { name: what } });
    check(response, { [`${what} is refused`]: (r) => r.status === status });
  }
}

export function teardown() {
  recordSeen();
}

/** @param {any} data */
export function handleSummary(data) {
  const v = verdict();
  tenants.forEach((id) => judgeOver(v, data, id, scenarios[id].rate));
  judgeSeen(v, data, tenants, wiring === 'rls' ? 0 : 4);
  return report('grpc', data, v);
}
