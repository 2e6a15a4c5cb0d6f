-- Which operations were charged, so that none is twice: sets of ids, one for every ten
-- seconds, which last until the next one is full. A key for each, as on a cluster,
-- where they have to lie on the slot of the cells, costs two more entries in tables and
-- its own removal: 2 µs more for a decision.

local PERIOD = 10000000 -- µs
local LASTS = '21000' -- ms: a period, the next one, and some more
local SETS = 4 -- names that take turns

local lasting = {} -- the period whose set will expire, by name

local function known(name, id, now)
  if not id then
    return call('EXISTS', name) == 1
  end
  local period = floor(now / PERIOD)
  return call('SISMEMBER', name .. char(period % SETS), id) == 1
    or call('SISMEMBER', name .. char((period - 1) % SETS), id) == 1
end

-- record is false if it was known; a fresh one is not, before it was sent twice.
local function record(name, id, now, fresh)
  if not id then
    return call('SET', name, '1', 'NX', 'PX', '10000')
  end
  local period = floor(now / PERIOD)
  if not fresh and call('SISMEMBER', name .. char((period - 1) % SETS), id) == 1 then
    return false
  end
  local key = name .. char(period % SETS)
  if call('SADD', key, id) == 0 then
    return false
  end
  if lasting[name] ~= period then
    lasting[name] = period
    call('PEXPIRE', key, LASTS)
  end
  return true
end
