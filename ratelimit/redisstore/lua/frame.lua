-- A cluster's call charges one request: all charges or none.
--
-- KEYS: the operation's, unless the call only looks; then each cell's, once.
-- ARGV[1]: mode (1 byte), keep (1: for how many times ten seconds an operation is known), now (7; 0: this server's clock),
-- then for each charge:
-- algorithm (1), flags (1), index of its cell (1), hits (5) and three numbers that
-- its algorithm knows (7, 6, 5); with SUMMED, what to ask for instead of hits (6).
-- Then, with FORCE, when it was (7 bytes); then, with hits given back, the channel.
--
-- The answer: what came of it (1 byte), now (7), then each cell as it was found: its
-- length (2), and it. What each limit says follows from that, and is for the caller to say.

local GCRA, HARD, FIXED = 1, 2, 3
local CAREFUL, LOOK, FORCE = 1, 2, 3 -- modes; 0: an id that nobody else has asked with
local ADMITTED, DENIED, REPEATED = 'A', 'D', 'R'
local SHADOW, BACK, SUMMED = 1, 2, 4

-- Of the charges of one request, by index. Kept, since a table costs more than a step.
local algorithm, cell, charged, first, second, third = {}, {}, {}, {}, {}, {}
local level, since, ends, same, gone, len = {}, {}, {}, {}, {}, {}

-- judge reads the cell of charge i and reports whether hits don't fit.
local function judge(i, v, now, hits)
  local kind = algorithm[i]
  if kind == FIXED then
    level[i], since[i], ends[i], same[i] = fixedLevel(v, now, second[i], third[i])
    return hits > 0 and fixedOver(level[i], hits, first[i])
  elseif kind == GCRA then
    level[i], since[i] = gcraLevel(v, now, first[i], second[i])
    return hits > 0 and gcraOver(level[i], hits, third[i])
  end
  level[i], since[i], gone[i], len[i] = hardLook(v, now, second[i])
  return hits > 0 and hits > first[i] - level[i]
end

-- judgeAll judges the charges of a request, written from pos on, and returns how many they are and whether all fit.
local function judgeAll(text, pos, stop, at, cells)
  local n, fits = 0, true
  while pos < stop do
    n = n + 1
    local flags, hits
    algorithm[n], flags, cell[n], hits, first[n], second[n], third[n], pos = sunpack('>BBBI5I7I6I5', text, pos)
    local ask, shadow = hits, false
    if flags > 0 then
      shadow = flags % 2 == SHADOW
      if flags % 4 >= BACK then
        hits, ask = -hits, 0
      end
      if flags >= SUMMED then
        ask, pos = sunpack('>I6', text, pos)
      end
    end
    charged[n] = hits
    if judge(n, cells[cell[n]], at, ask) and not shadow then
      fits = false
    end
  end
  return n, fits
end

-- apply is the cell after charge i, which was judged as it is now, when it expires (nil: never), and whether it did so before.
local function apply(i, v)
  local kind, hits = algorithm[i], charged[i]
  if kind == FIXED then
    return fixedApply(level[i], since[i], ends[i], hits, first[i], third[i]), ends[i], same[i]
  elseif kind == GCRA then
    return gcraApply(level[i], since[i], hits, first[i], second[i], third[i])
  end
  return hardApply(v, level[i], since[i], gone[i], len[i], hits, first[i], second[i], third[i])
end

-- past reports whether the window that charge i was made in is over.
local function past(i, at, now)
  return algorithm[i] == FIXED and at - at % second[i] + second[i] <= now
end

local texts, count = {}, 0

-- thousands is n thousand as a text. To make one is a twelfth of a decision, and Redis is slower at it: most were made for another cell.
local function thousands(n)
  local text = texts[n]
  if not text then
    if count == 1000 then
      texts, count = {}, 0
    end
    text = n .. '000'
    texts[n], count = text, count + 1
  end
  return text
end

-- write writes a cell that expires then; never, if that is false; when it did so far, if kept. The cell says when it ends to the µs:
-- Redis, which only tidies up, keeps it for up to a second more.
local function write(key, v, expires, kept)
  if kept then
    call('SET', key, v, 'KEEPTTL')
  elseif expires then
    call('SET', key, v, 'PXAT', thousands(ceil(expires / 1000000)))
  else
    call('SET', key, v)
  end
end

local function answer(status, now, cells, n)
  if n == 1 then
    local v = cells[1] or ''
    return pack('>c1I7I2c0', status, now, #v, v)
  end
  local parts = { status, pack('>I7', now) }
  for k = 1, n do
    local v = cells[k] or ''
    parts[k + 2] = pack('>I2', #v) .. v
  end
  return concat(parts)
end

local function charge(keys, args)
  if not call then
    globals()
  end
  local request = args[1]
  local mode, keep, now, pos = sunpack('>BBI7', request)
  local given = now > 0
  if not given then
    local t = call('TIME')
    now = t[1] * 1000000 + t[2]
  end
  local base = mode == LOOK and 0 or 1
  local cells = #keys - base
  local found
  if cells == 1 then
    found = { call('GET', keys[base + 1]) }
  else
    found = call('MGET', spread(keys, base + 1))
  end
  local at = now
  if mode == FORCE then
    at = sunpack('>I7', args[2])
    if at > now then
      at = now
    end
  end
  local n, fits = judgeAll(request, pos, #request + 1, at, found)

  if mode == LOOK then
    return answer(fits and ADMITTED or DENIED, now, found, cells)
  end
  if not fits and mode ~= FORCE then
    local known = mode == CAREFUL and call('EXISTS', keys[1]) == 1
    return answer(known and REPEATED or DENIED, now, found, cells)
  end
  if not call('SET', keys[1], '1', 'NX', 'PX', thousands(keep * 10)) then
    return answer(REPEATED, now, found, cells)
  end

  local written
  for i = 1, n do
    local hits, k = charged[i], cell[i]
    if hits ~= 0 and not (mode == FORCE and past(i, at, now)) then
      local v = found[k]
      if n > 1 then
        written = written or {}
        if written[k] then
          v = written[k]
          judge(i, v, at, 0)
        end
      end
      local new, expires, kept = apply(i, v)
      write(keys[base + k], new, not given and expires, kept)
      if n > 1 then
        written[k] = new
      end
      if hits < 0 then
        call('PUBLISH', args[#args], keys[base + k])
      end
    end
  end
  return answer(ADMITTED, now, found, cells)
end
