-- gcra.go in Lua. A cell is three numbers of 7 bytes: expires, at, level.
-- num/den is the rate, level for µs, in the lowest terms that are cheap to find.

local FOREVER = 72057594037927928 -- expires of what never does: 2^56-8, the largest 7 bytes that a double holds

local function gcraLevel(v, now, num, den)
  if not v then
    return 0, now
  end
  local expires, at, level = sunpack('>I7I7I7', v)
  if expires <= now then
    return 0, now
  end
  if now <= at then
    return level, at
  end
  local drained = mulDiv(now - at, num, den)
  if drained >= level then
    return 0, now
  end
  return level - drained, now
end

local function gcraOver(level, hits, burst)
  return hits > burst or level + hits * 1000000 > burst * 1000000
end

-- gcraApply is the new cell and when it expires.
local function gcraApply(level, at, hits, num, den, burst)
  local size = burst * 1000000
  local full = level > size and level or size
  if hits > burst then
    level = full
  else
    level = level + hits * 1000000
    if level > full then
      level = full
    end
  end
  local q, r = mulDiv(level, den, num)
  local expires = at + q
  if r > 0 then
    expires = expires + 1
  end
  if expires >= TOO_LARGE then
    return pack('>I7I7I7', FOREVER, at, level), nil
  end
  return pack('>I7I7I7', expires, at, level), expires
end
