-- Which operations were charged, so that none is twice: sets of ids, one for every ten
-- seconds, which last as many more as the caller says ("keep", the same for all callers). A key for each, as on a cluster,
-- where they have to lie on the slot of the cells, costs two more entries in tables and
-- its own removal: 2 µs more for a decision.

local PERIOD = 10000000 -- µs
local SETS = 64 -- names that take turns; two more than the most that keep may be

local lasting = {} -- the period whose set will expire, and for how many periods it stays, by name

-- stays lets a set expire, but not before any of its callers wants it to.
local function stays(name, period, keep)
  local now, was = period * SETS + keep, lasting[name]
  if not was or was < now or was >= (period + 1) * SETS then
    lasting[name] = now
    call('PEXPIRE', name .. char(period % SETS), (keep + 1) * 10000 + 1000 .. '')
  end
end

local function known(name, id, now)
  if not id then
    return call('EXISTS', name) == 1
  end
  local period = floor(now / PERIOD)
  return call('SISMEMBER', name .. char(period % SETS), id) == 1
    or call('SISMEMBER', name .. char((period - 1) % SETS), id) == 1
end

-- record is false if it was known in this period or in one of some before: of an operation that is counted again, as many
-- as ids are kept; of one that is sent twice at once, the last; of a fresh one none.
local function record(name, id, now, before, keep)
  if not id then
    return call('SET', name, '1', 'NX', 'PX', keep * 10000 .. '')
  end
  local period = floor(now / PERIOD)
  for i = 1, before do
    if call('SISMEMBER', name .. char((period - i) % SETS), id) == 1 then
      return false
    end
  end
  if call('SADD', name .. char(period % SETS), id) == 0 then
    return false
  end
  stays(name, period, keep)
  return true
end
