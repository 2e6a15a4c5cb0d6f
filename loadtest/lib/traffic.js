// How requests are sent and counted: one scenario for each tenant, by an arrival rate, so that a slow answer does not
// slow the next request down.
import http from 'k6/http';
import grpc from 'k6/net/grpc';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { base, control, tenant, wiring } from './config.js';

http.setResponseCallback(http.expectedStatuses(200, 429));

const allowed = new Counter('sluice_allowed');
const limited = new Counter('sluice_limited');
const unexpected = new Counter('sluice_unexpected');
// Times are in ms since 1970, to be compared with the windows of a limit.
const sentAt = new Trend('sluice_sent_at');
const answeredAt = new Trend('sluice_answered_at');
const startedAt = new Trend('sluice_started_at');
const lag = new Trend('sluice_lag', true);
const took = new Trend('sluice_took', true);
const seen = new Trend('sluice_seen');

/** The most ms that an answer may be late before what does not hold says nothing about the limiter, but about the machine. */
export const patience = 800;

/** How long after the end of a schedule an answer may come. */
export const grace = '10s';

/**
 * One request of a tenant, counted.
 * @param {string} id
 * @param {{url?: string, due?: number, phase?: string}} [how] due is when it should have been sent
 */
export function ask(id, how = {}) {
  const tags = { tenant: id, phase: how.phase || 'all' };
  const sent = Date.now();
  const response = http.get(how.url || `${base}/v1/calls`, { headers: credentials(id), tags: { name: 'calls', ...tags }, timeout: '30s' });
  const { status } = response;
  const answered = count(tags, { sent, due: how.due, took: response.timings.duration, outcome: status === 200 ? allowed : status === 429 ? limited : unexpected, status });
  return { response, sent, answered };
}

/**
 * One gRPC call of a tenant, counted in the same way.
 * @param {string} id
 * @param {grpc.Client} client that is connected
 * @param {string} method
 * @param {object} message
 * @param {number} [due] when it should have been sent
 */
export function call(id, client, method, message, due) {
  const sent = Date.now();
  const tags = { tenant: id, phase: 'all' };
  const response = client.invoke(method, message, { metadata: credentials(id), tags, timeout: '30s' });
  const { status } = response;
  count(tags, { sent, due, took: Date.now() - sent, outcome: status === grpc.StatusOK ? allowed : status === grpc.StatusResourceExhausted ? limited : unexpected, status });
  return response;
}

/**
 * @param {{tenant: string, phase: string}} tags
 * @param {{sent: number, due?: number, took: number, outcome: Counter, status: number}} what
 */
function count(tags, { sent, due, took: duration, outcome, status }) {
  const now = Date.now() + 1; // Date has whole ms: the answer came before this one
  sentAt.add(sent, tags);
  answeredAt.add(now, tags);
  lag.add(Math.max(0, now - (due || sent)), tags);
  took.add(duration, tags);
  outcome.add(1, outcome === unexpected ? { status: String(status), ...tags } : tags);
  return now;
}

/**
 * What says whose a request is, in the wiring at hand.
 * @param {string} id
 * @returns {Record<string, string>}
 */
export function credentials(id) {
  return wiring === 'rls' ? { 'x-user': id } : { 'x-api-key': tenant(id).key };
}

/**
 * A steady offer. The scenario bears the tenant's name, and {@link steady} sends for it.
 * @param {number} rate requests a second
 * @param {number} seconds
 * @param {Record<string, unknown>} [more]
 * @returns {any}
 */
export function offer(rate, seconds, more = {}) {
  return {
    executor: 'constant-arrival-rate', exec: 'steady', rate, timeUnit: '1s', duration: `${seconds}s`,
    preAllocatedVUs: vus(rate), gracefulStop: grace, ...more,
  };
}

/**
 * Enough for answers that all take two seconds, far beyond {@link patience}. Fewer would drop requests, more would take memory.
 * @param {number} rate
 */
export function vus(rate) {
  return 2 * Math.ceil(rate) + 2;
}

/**
 * Sends one request of the tenant that the scenario is named after, and keeps the schedule's time.
 * @param {Record<string, {rate: number}>} scenarios
 * @param {(second: number) => string} [phase] of a request, by the second of the schedule when it is due
 */
export function keepPace(scenarios, phase = () => 'all') {
  const { second, at } = pace(scenarios);
  return ask(exec.scenario.name, { due: at, phase: phase(second) });
}

/**
 * When the iteration at hand is due.
 * @param {Record<string, {rate: number}>} scenarios
 */
export function pace(scenarios) {
  const s = exec.scenario;
  startedAt.add(s.startTime, { tenant: s.name });
  const second = s.iterationInTest / scenarios[s.name].rate;
  return { second, at: s.startTime + second * 1000 };
}

/**
 * An offer in steps, each steady. {@link due} says when a request of it should leave.
 * @param {{rate: number, seconds: number}[]} steps
 * @returns {any}
 */
export function stairs(steps) {
  const stages = steps.flatMap(({ rate, seconds }, i) => [...(i > 0 ? [{ target: rate, duration: '0s' }] : []), { target: rate, duration: `${seconds}s` }]);
  return {
    executor: 'ramping-arrival-rate', exec: 'steady', startRate: steps[0].rate, timeUnit: '1s', stages,
    preAllocatedVUs: vus(Math.max(...steps.map((s) => s.rate))), gracefulStop: grace,
  };
}

/**
 * @param {{rate: number, seconds: number}[]} steps
 * @param {number} iteration
 * @returns {{step: number, second: number}}
 */
export function due(steps, iteration) {
  let [before, second] = [0, 0];
  for (const [step, s] of steps.entries()) {
    if (iteration < before + s.rate * s.seconds || step === steps.length - 1) {
      return { step, second: second + (iteration - before) / s.rate };
    }
    before += s.rate * s.seconds;
    second += s.seconds;
  }
  throw new Error('due: no steps');
}

/**
 * Asks what runs the suite to do something to the path, or about it.
 * @param {string} what such as kill
 * @returns {any} what it says
 */
export function operator(what) {
  const response = http.post(`${control}/${what}`, null, { tags: { name: 'operator' }, timeout: '60s', responseCallback: http.expectedStatuses(200) });
  if (response.status !== 200) {
    throw new Error(`${control}/${what}: ${response.status} ${response.body}`);
  }
  return response.json();
}

/** Asks the path what it counted, for judgeSeen, and gives all that it said. It belongs into teardown, when all is answered. */
export function recordSeen() {
  const counted = operator('counts');
  seen.add(counted.gateway, { by: 'gateway' });
  seen.add(counted.upstream, { by: 'upstream' });
  seen.add(counted.all, { by: 'sluiced' });
  return counted;
}
