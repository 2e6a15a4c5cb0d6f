// What a run is told: where to send, which limits hold, and how long. Nothing here is a number of a limit: those come
// in a file that 'make load' generates from the catalogue which the server loads.

/**
 * @typedef {object} Limit
 * @property {string} name
 * @property {'gcra' | 'hard' | 'fixed'} algorithm
 * @property {number} limit hits per window
 * @property {number} windowMs
 * @property {number} burst hits at once; gcra only
 * @property {boolean} durable
 */

/**
 * @typedef {object} Tenant
 * @property {string} id
 * @property {string} key its API key
 * @property {Limit[]} limits all that one request is charged
 */

/** @type {{wiring: string, store: string, replicas: number, tenants: Record<string, Tenant>}} */
const file = JSON.parse(open(need('LIMITS')));

export const wiring = file.wiring;
export const store = file.store;
export const replicas = file.replicas;
export const base = need('BASE_URL');
/** The same without a scheme, for gRPC. */
export const address = new RegExp('^[a-z]+://(.*)$').exec(base)?.[1] || base;
/** Where the definitions of gRPC services are. */
export const protos = __ENV.PROTOS || '';
export const control = __ENV.CONTROL_URL || '';
export const out = __ENV.OUT || '.';

/** How many times as long as the short form. */
const scale = Number(__ENV.SCALE || '1');

/**
 * @param {string} name of an environment variable
 * @returns {string}
 */
function need(name) {
  const value = __ENV[name];
  if (!value) {
    throw new Error(`${name} is not set; 'make load' sets it, or give it with -e ${name}=…`);
  }
  return value;
}

/**
 * @param {number} short seconds of the short form
 * @returns {number} whole seconds of this run
 */
export function seconds(short) {
  return Math.max(1, Math.round(short * scale));
}

/**
 * @param {string} id
 * @returns {Tenant}
 */
export function tenant(id) {
  const found = file.tenants[id];
  if (!found) {
    throw new Error(`the catalogue has no tenant ${id}; it has ${Object.keys(file.tenants).join(', ')}`);
  }
  return found;
}

/**
 * The limit that binds: the one with the lowest rate that can be used up within a run.
 * @param {string} id
 * @returns {Limit}
 */
export function binding(id) {
  return tenant(id).limits.reduce((a, b) => (perSecond(b) < perSecond(a) && b.limit < 100000 ? b : a));
}

/**
 * @param {Limit} limit
 * @returns {number} hits per second that it admits for ever
 */
export function perSecond(limit) {
  return (limit.limit * 1000) / limit.windowMs;
}

/**
 * A whole rate for an executor.
 * @param {string} id
 * @param {number} factor of what the tenant may
 */
export function rate(id, factor) {
  return Math.max(1, Math.round(perSecond(binding(id)) * factor));
}
