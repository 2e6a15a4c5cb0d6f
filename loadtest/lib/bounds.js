// What an algorithm admits, at least and at most, worked out from what a run measured: when its first request left and
// its last answer came, how many were sent, and how late any was. Nothing is allowed for that is not a bound of the algorithm.

/** @typedef {import('./config.js').Limit} Limit */

/**
 * @typedef {object} Run
 * @property {number} sent
 * @property {number} first when the first request was sent, ms since 1970
 * @property {number} last when the last answer came
 * @property {number} start when the schedule began
 * @property {number} rate requests a second by the schedule
 * @property {number} lag the most ms from when a request was due to its answer
 */

/**
 * The most of limit that can be admitted between two times.
 * @param {Limit} limit
 * @param {number} first
 * @param {number} last
 */
export function most(limit, first, last) {
  const window = limit.windowMs;
  switch (limit.algorithm) {
    case 'gcra': // burst + rate·τ
      return limit.burst + Math.floor((limit.limit * (last - first)) / window);
    case 'hard': // so many trailing windows, one after the other, begin in it
      return limit.limit * (Math.floor((last - first) / window) + 1);
    case 'fixed': // so many aligned windows are touched
      return limit.limit * (Math.floor(last / window) - Math.floor(first / window) + 1);
    default:
      throw new Error(`bounds: no algorithm ${limit.algorithm}; add its bound here`);
  }
}

/**
 * The most that can be admitted of a steady offer: in no window more than are due in it, or came late into it.
 * @param {Limit} limit
 * @param {Run} run
 */
function mostOf(limit, run) {
  if (limit.algorithm === 'gcra') {
    return most(limit, run.first, run.last);
  }
  let sum = 0;
  const begin = limit.algorithm === 'fixed' ? Math.floor(run.first / limit.windowMs) * limit.windowMs : run.first;
  for (let at = begin; at <= run.last; at += limit.windowMs) {
    const from = Math.max(at - run.lag, run.start);
    const to = Math.min(at + limit.windowMs, run.last);
    sum += clamp(Math.ceil((run.rate * (to - from)) / 1000) + 1, limit.limit);
  }
  return sum;
}

/**
 * The least of limit that must be admitted of a steady offer of more than it. A request is decided between when it was due and lag later.
 * @param {Limit} limit
 * @param {Run} run
 */
export function least(limit, run) {
  const rate = run.rate / 1000; // everything in ms
  const span = (run.sent - 1) / rate;
  const gap = run.lag + 1 / rate; // no longer without a request
  let sum = 0;
  switch (limit.algorithm) {
    case 'gcra':
      // The bucket drains while there is something in it: all the time but for one gap until the first request, and
      // one before it was full. It was full when the last request was refused, at most one gap before the end.
      sum = limit.burst - 1 + (limit.limit / limit.windowMs) * (span - 3 * gap);
      break;
    case 'hard': {
      // A hit's place is free a window and a tick later, and taken by the next request.
      const turn = limit.windowMs + gap + Math.ceil(limit.windowMs / 60000);
      const lost = limit.limit > 120 ? Math.ceil(limit.limit / 120) : 0;
      for (let from = 0; from < span; from += turn) {
        sum += clamp(Math.floor(rate * (span - from - run.lag)), limit.limit - lost);
      }
      break;
    }
    case 'fixed':
      for (let at = run.start; at < run.start + span; ) {
        const edge = (Math.floor(at / limit.windowMs) + 1) * limit.windowMs;
        const to = Math.min(edge, run.start + span);
        sum += clamp(Math.floor(rate * (to - at - run.lag)) - 1, limit.limit);
        at = edge;
      }
      break;
    default:
      throw new Error(`bounds: no algorithm ${limit.algorithm}; add its bound here`);
  }
  return clamp(Math.floor(sum), run.sent);
}

/**
 * The least of one limit that must be admitted of a part of such an offer, whatever was admitted before the part. What a full limiter holds back
 * is at most what it admits at once, and late requests of the part before may take places of this one.
 * @param {Limit} limit
 * @param {Run} run the part
 * @param {number} before the lag of the part before
 */
function leastOf(limit, run, before) {
  return Math.max(0, least(limit, run) - (limit.algorithm === 'gcra' ? limit.burst : limit.limit) - Math.ceil((run.rate * before) / 1000) - 1);
}

/**
 * The bounds of a part of a steady offer of more than limits allow that is not its first.
 * @param {Limit[]} limits
 * @param {Run} run the part
 * @param {number} before the lag of the part before
 * @returns {{low: number, high: number}}
 */
export function part(limits, run, before) {
  return { low: Math.min(...limits.map((l) => leastOf(l, run, before))), high: bounds(limits, run).high };
}

/**
 * The least of a steady offer, of less than a gcra limit's rate, that must be admitted before one that fills its bucket. Those that are so late that they
 * meet it may be refused.
 * @param {number} sent
 * @param {number} rate requests a second
 * @param {number} lag the most ms that a request of it is late
 */
export function spared(sent, rate, lag) {
  return clamp(sent - Math.floor((rate * lag) / 1000), sent);
}

/**
 * The least of a steady offer, of less than a gcra limit's rate, that must be admitted after one that filled its bucket. The first finds it full, and so may
 * all that meet late requests of what came before; of those that are late themselves, as many as came at once.
 * @param {number} sent
 * @param {number} rate requests a second
 * @param {number} lag the most ms that a request of either is late
 */
export function recovered(sent, rate, lag) {
  return clamp(sent - 1 - Math.ceil((2 * rate * lag) / 1000), sent);
}

/**
 * What is admitted if each request is decided in the moment when it is due, by a log of all hits: what counts are compared with
 * in docs/accuracy.md.
 * @param {Limit} limit
 * @param {Run} run
 */
export function ideal(limit, run) {
  const window = limit.windowMs;
  /** @type {number[]} */
  const hits = [];
  let [level, at] = [0, run.start];
  for (let i = 0; i < run.sent; i++) {
    const now = run.start + (i * 1000) / run.rate;
    let room = false;
    switch (limit.algorithm) {
      case 'gcra':
        level = Math.max(0, level - ((now - at) * limit.limit) / window);
        at = now;
        room = level + 1 <= limit.burst + 1e-9;
        level += room ? 1 : 0;
        break;
      case 'hard':
        room = hits.length < limit.limit || hits[hits.length - limit.limit] <= now - window;
        break;
      case 'fixed': {
        const begin = Math.floor(now / window) * window;
        room = hits.length < limit.limit || hits[hits.length - limit.limit] < begin;
        break;
      }
      default:
        throw new Error(`bounds: no algorithm ${limit.algorithm}; add it here`);
    }
    if (room) {
      hits.push(now);
    }
  }
  return hits.length;
}

/**
 * @param {Limit[]} limits that one request is charged, all or none
 * @param {Run} run
 */
function bounds(limits, run) {
  return { low: Math.min(...limits.map((l) => least(l, run))), high: Math.min(run.sent, ...limits.map((l) => mostOf(l, run))) };
}

/**
 * @param {Limit[]} limits that one request is charged, all or none
 * @param {Run} run
 * @returns {{low: number, high: number, ideal: number}}
 */
export function over(limits, run) {
  return { ...bounds(limits, run), ideal: Math.min(...limits.map((l) => ideal(l, run))) };
}

/** The most ms from when an offer is planned to when it begins. */
const soon = 60000;

/**
 * The bounds of a steady offer before it is made: of all times when it may begin, and so of all places where the edge of a window can fall, the
 * least and the most. An edge of a window of a day falls into it only around midnight.
 * @param {Limit[]} limits that one request is charged, all or none
 * @param {number} rate requests a second
 * @param {number} seconds
 * @param {number} lag the most ms that a request is late
 * @param {number} now ms since 1970
 * @returns {{low: number, high: number}}
 */
export function planned(limits, rate, seconds, lag, now) {
  const [step, length] = [100, seconds * 1000 + lag];
  const met = limits.filter((l) => l.algorithm === 'fixed' && now % l.windowMs > l.windowMs - soon - length);
  const span = Math.min(soon, Math.max(1, ...met.map((l) => l.windowMs)));
  const starts = [...Array(Math.ceil(span / step)).keys()].map((i) => now + i * step);
  const all = starts.map((start) => bounds(limits, { sent: rate * seconds, first: start, last: start + length, start, rate, lag }));
  return { low: Math.min(...all.map((b) => b.low)), high: Math.max(...all.map((b) => b.high)) };
}

/**
 * @param {number} n
 * @param {number} high
 */
function clamp(n, high) {
  return Math.max(0, Math.min(n, high));
}
