// The bounds against limiters that keep a log of all hits, on schedules of which any request may be late.
// 'node --test' runs it: bounds.js needs nothing of k6.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ideal, over, part, planned, recovered, spared } from '../lib/bounds.js';

/** @param {number} seed */
function random(seed) {
  return () => {
    seed = (seed * 1664525 + 1013904223) % 4294967296;
    return seed / 4294967296;
  };
}

/**
 * @param {any} limit
 * @param {number[]} times at which requests are decided, in order
 * @param {(i: number) => void} [tell] of each that is admitted
 */
function admitted(limit, times, tell = () => {}) {
  /** @type {number[]} */
  const hits = [];
  let [level, at] = [0, times[0]];
  for (const [i, now] of times.entries()) {
    level = Math.max(0, level - ((now - at) * limit.limit) / limit.windowMs);
    at = now;
    const same = (/** @type {number} */ h) => (limit.algorithm === 'hard' ? h > now - limit.windowMs : Math.floor(h / limit.windowMs) === Math.floor(now / limit.windowMs));
    const room = limit.algorithm === 'gcra' ? level + 1 <= limit.burst + 1e-6 : hits.filter(same).length < limit.limit;
    if (room) {
      hits.push(now);
      tell(i);
      level += 1;
    }
  }
  return hits.length;
}

const limits = [
  { name: 'a', algorithm: 'gcra', limit: 20, windowMs: 1000, burst: 40, durable: false },
  { name: 'b', algorithm: 'gcra', limit: 20, windowMs: 1000, burst: 20, durable: false },
  { name: 'c', algorithm: 'hard', limit: 60, windowMs: 5000, burst: 0, durable: false },
  { name: 'd', algorithm: 'fixed', limit: 60, windowMs: 5000, burst: 0, durable: false },
];

/**
 * @param {(now: number, i: number) => number} late ms
 * @param {(what: string, allowed: number, bound: {low: number, high: number, ideal: number}) => void} judge
 */
function each(late, judge) {
  const next = random(7);
  for (const limit of /** @type {import('../lib/config.js').Limit[]} */ (limits)) {
    for (let run = 0; run < 400; run++) {
      const rate = Math.round((limit.limit * 1000 * (1.3 + 4 * next())) / limit.windowMs);
      const sent = rate * (6 + Math.floor(next() * 10));
      const start = 1e12 + Math.floor(next() * 1e7);
      const due = [...Array(sent).keys()].map((i) => start + (i * 1000) / rate);
      const times = due.map((d, i) => d + late(d - start, i) * next()).sort((a, b) => a - b);
      const lag = Math.max(...due.map((d, i) => late(d - start, i)));
      const measured = { sent, start, rate, lag, first: times[0], last: times[sent - 1] };
      judge(`${limit.algorithm} ${limit.burst} at ${rate}/s for ${sent / rate} s`, admitted(limit, times), over([limit], measured));
    }
  }
}

test('what a limiter admits lies within the bounds, however late requests are', () => {
  for (const late of [() => 0, () => 5, () => 800, (/** @type {number} */ t) => (t > 3000 && t < 3700 ? 3700 - t : 3)]) {
    each(late, (what, allowed, bound) => assert.ok(bound.low <= allowed && allowed <= bound.high, `${what}: ${allowed} allowed, bounds ${bound.low} to ${bound.high}`));
  }
});

test('of a schedule that is kept the bounds are close enough to tell half and twice the limit', () => {
  each(() => 5, (what, allowed, bound) => {
    assert.ok(bound.low > allowed / 2, `${what}: ${allowed} allowed, and half of it would pass: low is ${bound.low}`);
    assert.ok(bound.high < allowed * 2, `${what}: ${allowed} allowed, and twice as much would pass: high is ${bound.high}`);
  });
});

test('what is admitted of a part lies within its bounds, whatever came before and however late requests are', () => {
  const next = random(13);
  for (const limit of /** @type {import('../lib/config.js').Limit[]} */ (limits)) {
    let closest = 0;
    for (let run = 0; run < 400; run++) {
      const rate = Math.round((limit.limit * 1000 * (1.3 + 2 * next())) / limit.windowMs);
      const [length, parts] = [20, 3];
      const start = 1e12 + Math.floor(next() * 1e7);
      // Each part is late in its own way, and the one before may have stood still.
      const lags = [...Array(parts).keys()].map(() => [0, 5, 300, 800][Math.floor(next() * 4)]);
      const stood = next() < 0.3 ? 3000 : 0;
      const requests = [...Array(rate * length * parts).keys()].map((i) => {
        const k = Math.floor(i / (rate * length));
        const due = (i * 1000) / rate;
        const end = (k + 1) * length * 1000;
        return { k, at: start + (k === 0 && stood > 0 && due > end - stood ? end : due + lags[k] * next()) };
      }).sort((a, b) => a.at - b.at);
      const count = Array(parts).fill(0);
      admitted(limit, requests.map((r) => r.at), (i) => count[requests[i].k]++);
      for (let k = 1; k < parts; k++) {
        const times = requests.filter((r) => r.k === k).map((r) => r.at);
        const bound = part([limit], { sent: times.length, start: start + k * length * 1000, rate, lag: lags[k], first: times[0], last: times[times.length - 1] }, k === 1 ? Math.max(stood, lags[0]) : lags[k - 1]);
        assert.ok(bound.low <= count[k] && count[k] <= bound.high, `${limit.algorithm}, part ${k}: ${count[k]} allowed, bounds ${bound.low} to ${bound.high}`);
        closest = Math.max(closest, bound.low / count[k]);
      }
    }
    assert.ok(closest > 0.6, `${limit.algorithm}: of no part more than ${closest} of what was allowed had to be`);
  }
});

test('what a limiter admits lies within the bounds that are planned with, wherever the edge of a window falls', () => {
  const next = random(17);
  for (const limit of /** @type {import('../lib/config.js').Limit[]} */ (limits)) {
    for (const [factor, seconds] of [[2, 5], [2, 6], [1.5, 15]]) {
      const rate = Math.round((limit.limit * 1000 * factor) / limit.windowMs);
      const sent = rate * seconds;
      const bound = planned([limit], rate, seconds, 800, 1e12);
      let most = 0;
      for (let run = 0; run < 500; run++) {
        const start = 1e12 + run * (limit.windowMs / 500);
        const late = [0, 5, 500][run % 3];
        const allowed = admitted(limit, [...Array(sent).keys()].map((i) => start + (i * 1000) / rate + late * next()).sort((a, b) => a - b));
        assert.ok(bound.low <= allowed && allowed <= bound.high, `${limit.algorithm}, ${rate}/s for ${seconds} s, ${late} ms late: ${allowed} allowed, bounds ${bound.low} to ${bound.high}`);
        most = Math.max(most, allowed);
      }
      // An edge in the middle of one window's time makes two of it, and twice the limit is allowed.
      const all = limit.algorithm === 'fixed' && seconds * 1000 === limit.windowMs;
      assert.equal(most === sent, all, `${limit.algorithm}, ${rate}/s for ${seconds} s: ${most} of ${sent} allowed`);
      assert.equal(bound.high === sent, all, `${limit.algorithm}, ${rate}/s for ${seconds} s: the bound is ${bound.high} of ${sent}`);
    }
  }
});

test('a plan knows of midnight, and of no other end of a day', () => {
  const limit = /** @type {any} */ ({ name: 'e', algorithm: 'fixed', limit: 12, windowMs: 86400000, durable: true });
  const midnight = 20000 * 86400000;
  assert.equal(planned([limit], 10, 3, 800, midnight + 1000).high, 12);
  for (const before of [100, 1500, 30000, 59000]) {
    const bound = planned([limit], 10, 3, 800, midnight - before);
    assert.equal(bound.high === 24, before > 1000, `${before} ms before midnight: ${bound.high}`);
    for (let start = midnight - before; start < midnight + 100; start += 100) {
      const allowed = admitted(limit, [...Array(30).keys()].map((i) => start + i * 100));
      assert.ok(bound.low <= allowed && allowed <= bound.high, `planned ${before} ms before midnight: ${allowed} allowed, bounds ${bound.low} to ${bound.high}`);
    }
  }
});

test('the ideal is what a limiter admits of a schedule that is kept', () => {
  each(() => 0, (what, allowed, bound) => assert.ok(Math.abs(bound.ideal - allowed) <= 1, `${what}: ${allowed} allowed, ideal ${bound.ideal}`));
  assert.equal(ideal(/** @type {any} */ (limits[3]), { sent: 200, start: 0, rate: 20, lag: 0, first: 0, last: 0 }), 120);
});

test('before and after a flood no more is refused than the bounds say, however late requests are', () => {
  const next = random(11);
  let [early, refused] = [0, 0];
  for (let run = 0; run < 2000; run++) {
    const limit = { algorithm: 'gcra', limit: 20, windowMs: 1000, burst: 20 + Math.floor(next() * 20) };
    const [flood, rate, lag] = [100, 10, [0, 5, 100, 800][run % 4]];
    const late = (/** @type {number} */ at) => at + lag * next();
    const steps = [rate, flood, rate].flatMap((each, step) => [...Array(2 * each).keys()].map((i) => ({ at: late(1e12 + 2000 * step + (i * 1000) / each), step })));
    steps.sort((a, b) => a.at - b.at);
    const hits = [0, 0, 0];
    admitted(limit, steps.map((r) => r.at), (/** @type {number} */ i) => hits[steps[i].step]++);
    const sent = 2 * rate;
    [early, refused] = [Math.max(early, sent - hits[0]), Math.max(refused, sent - hits[2])];
    assert.ok(hits[0] >= spared(sent, rate, lag), `before: ${hits[0]} of ${sent} allowed, ${lag} ms late at most; the bound is ${spared(sent, rate, lag)}`);
    assert.ok(hits[2] >= recovered(sent, rate, lag), `after: ${hits[2]} of ${sent} allowed, ${lag} ms late at most; the bound is ${recovered(sent, rate, lag)}`);
    assert.ok(lag > 5 || hits[0] === sent, `before: ${hits[0]} of ${sent} allowed, and none was late`);
  }
  assert.ok(early > 0 && refused > 1, `no run refused more than ${early} and ${refused}: nothing was tried`);
});
