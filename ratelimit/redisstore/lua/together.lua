-- One server's call charges several requests, one after the other, each all or none and for itself: an error in one is its
-- answer, and nothing of it is written. What they write is written at the end, a cell once.
--
-- KEYS: the sets' name; then the cells of each request, of one request each once.
-- ARGV[1]: keep (1 byte), how many periods before this one may know an operation of these (1; NONE: not this one either),
-- now (7; 0: this server's clock), how many requests (1), the id of each one's operation (16), then for each: how long what follows its head
-- is (2), mode (1), how many cells (1), its charges as above and, with FORCE, when it was (7).
-- ARGV[2]: the channel, if one gives hits back.
--
-- The answer: now (7), then for each request: what came of it (1), then each cell as the request found it: its length (2), and
-- it. Or FAILED, the length of an error (2), and it.

local FAILED = 'E'
local NONE = 255

-- Of the call that runs: its keys; what was found there; those to tell of; its time, and whether that is made up; the answer.
local cellKeys, found, freed
local moment, made
local out, size = {}, 0

-- What it writes: how many keys, and by key, which of them; each key, what is there now, and when it ends (false: never, KEPT: as it did).
local KEPT = 'kept'
local writes, place = 0
local dirty, latest, lasts = {}, {}, {}

-- The id of each operation, and those of what was admitted.
local ids, admitted = {}, {}

-- Of one request: its cells as they were, and as they will be. Kept, like those of the charges and of the call.
local before, after, expiry, keeps = {}, {}, {}, {}

local lengths = {} -- made once

local function lengthOf(v)
  local n = #v
  local text = lengths[n]
  if not text then
    text = pack('>I2', n)
    lengths[n] = text
  end
  return text
end

local function put(key, v, expires, kept)
  local i = place[key]
  if not i then
    i = writes + 1
    writes, place[key], dirty[i], lasts[i] = i, i, key, KEPT
  end
  latest[i] = v
  if not kept then
    lasts[i] = not made and expires or false
  end
end

-- applyAll applies the n charges of a request whose cells lie behind base.
local function applyAll(n, base, cells, mode, at)
  for k = 1, cells do
    after[k] = false
  end
  for i = 1, n do
    local k = cell[i]
    if charged[i] ~= 0 and not (mode == FORCE and past(i, at, moment)) then
      local v, again = before[k], after[k]
      if again then
        v = again
        judge(i, v, at, 0)
      end
      local new, expires, kept = apply(i, v)
      if not kept or not again then
        expiry[k], keeps[k] = expires, kept
      end
      after[k] = new
    end
  end
  for k = 1, cells do -- nothing fails any more
    if after[k] then
      put(cellKeys[base + k], after[k], expiry[k], keeps[k])
    end
  end
  for i = 1, n do
    if charged[i] < 0 and after[cell[i]] then
      freed[#freed + 1] = cellKeys[base + cell[i]]
    end
  end
end

-- one answers a request, and reports whether it was charged.
local function one(text, pos, stop, base, cells, mode, repeated)
  local at = moment
  if mode == FORCE then
    stop = stop - 7
    at = sunpack('>I7', text, stop)
    if at > moment then
      at = moment
    end
  end
  for k = 1, cells do
    local i = place[cellKeys[base + k]]
    before[k] = i and latest[i] or found[base + k]
  end
  local n, fits = judgeAll(text, pos, stop, at, before)
  local status = ADMITTED
  if mode == LOOK then
    status = fits and ADMITTED or DENIED
  elseif repeated then
    status = REPEATED
  elseif not fits and mode ~= FORCE then
    status = DENIED
  end
  local counts = status == ADMITTED and mode ~= LOOK
  if not counts then
    -- nothing is written
  elseif n == 1 and mode ~= FORCE and charged[1] > 0 then -- most are so: it saves a tenth
    put(cellKeys[base + 1], apply(1, before[1]))
  else
    applyAll(n, base, cells, mode, at)
  end
  out[size + 1], size = status, size + 1
  for k = 1, cells do
    local v = before[k] or ''
    out[size + 1], out[size + 2], size = lengthOf(v), v, size + 2
  end
  return counts
end

local function together(keys, args)
  if not call then
    globals()
  end
  local text = args[1]
  local keep, periods, now, requests, pos = sunpack('>BBI7B', text)
  made = now > 0
  if not made then
    local t = call('TIME')
    now = t[1] * 1000000 + t[2]
  end
  cellKeys, freed, moment, writes, place = keys, {}, now, 0, {}
  if #keys == 2 then
    found = { false, call('GET', keys[2]) }
  else
    found = call('MGET', spread(keys))
  end
  for i = 1, requests do
    ids[i], pos = sub(text, pos, pos + 15), pos + 16
  end
  local members = periods < NONE and known(keys[1], ids, requests, now, periods)

  out[1], size = pack('>I7', now), 1
  local base, n, seen = 1, 0, {}
  for i = 1, requests do
    local length, mode, cells, body = sunpack('>I2BB', text, pos)
    local id, repeated = ids[i], false
    if members then
      repeated = seen[id]
      for ago = 0, mode == FORCE and periods or 1 do
        repeated = repeated or members[ago][i] == 1
      end
    end
    local start = size
    local fine, counts = attempt(one, text, body, body + length, base, cells, mode, repeated)
    if not fine then
      local why = type(counts) == 'table' and counts.err or tostring(counts)
      out[start + 1], out[start + 2], out[start + 3], size = FAILED, lengthOf(why), why, start + 3
    elseif counts then
      n = n + 1
      admitted[n] = id
      if members then
        seen[id] = true
      end
    end
    pos, base = body + length, base + cells
  end
  if n > 0 then
    record(keys[1], admitted, n, now, keep)
  end
  for i = 1, writes do
    write(dirty[i], latest[i], lasts[i], lasts[i] == KEPT)
  end
  for i = 1, #freed do
    call('PUBLISH', args[2], freed[i])
  end
  return concat(out, '', 1, size)
end
