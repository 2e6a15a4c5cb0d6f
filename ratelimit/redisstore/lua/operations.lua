-- Which operations were charged, so that none is twice. On a cluster each has a key, which has to lie on the slot of
-- its cells. On one server they are in sets, one for every ten seconds, which stay for as many more as the caller says
-- ("keep"): of all requests of a call that is one command, where keys were one each and their own removal.

local PERIOD = 10000000 -- µs
local SETS = 64 -- names that take turns; two more than the most that keep may be

local function setOf(name, period)
  return name .. char(period % SETS)
end

local lasting = {} -- by name: its period, and for how many more it stays

-- stays lets a set expire, but not before any of its callers wants it to. At the first call of a period those that nobody asks for
-- any more go in the background, since Redis would do nothing else while a large one expires; who may not unlink waits for that.
local function stays(name, period, keep)
  local turn = period % SETS
  local was = lasting[turn]
  if was and was.period == period and was.keep >= keep then
    return
  end
  lasting[turn] = { period = period, keep = keep }
  for _, how in ipairs({ 'NX', 'GT' }) do
    call('PEXPIRE', setOf(name, period), (keep + 1) * 10000 + 1000 .. '', how)
  end
  for other, set in pairs(lasting) do
    if set.period + set.keep < period then
      try('UNLINK', setOf(name, other))
      lasting[other] = nil
    end
  end
end

-- known is which of the first n ids are in the sets of this period and of so many before it, by how many periods ago.
local function known(name, ids, n, now, before)
  local period, members = floor(now / PERIOD), {}
  for ago = 0, before do
    members[ago] = call('SMISMEMBER', setOf(name, period - ago), spread(ids, 1, n))
  end
  return members
end

local function record(name, ids, n, now, keep)
  local period = floor(now / PERIOD)
  call('SADD', setOf(name, period), spread(ids, 1, n))
  stays(name, period, keep)
end
