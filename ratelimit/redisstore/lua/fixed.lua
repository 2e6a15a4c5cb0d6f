-- fixed.go in Lua. A cell is at (52 bits), its window (11) and level (33), in 12
-- bytes: with its key that is what jemalloc gives for 16 and 32 bytes. A window
-- is up to 511 seconds, minutes, hours or days; with another one the cell is
-- expires (7 bytes), at (7) and level (5).

local UNIT = { [0] = 1000000, 60000000, 3600000000, 86400000000 }

-- fixedRead is expires, at, level of a cell.
local function fixedRead(v, window, code)
  if #v ~= 12 then
    return sunpack('>I7I7I5', v)
  end
  local x, y = sunpack('>I6I6', v)
  local level = y % 8589934592
  y = (y - level) / 8589934592
  local c = y % 2048
  local at = x * 16 + (y - c) / 2048
  if c ~= code then
    local n = c % 512
    window = UNIT[(c - n) / 512] * n
  end
  return at - at % window + window, at, level
end

-- fixedLevel is the count, its time, when it ends, and whether the cell ends then too.
local function fixedLevel(v, now, window, code)
  if v then
    local expires, at, level = fixedRead(v, window, code)
    if expires > now then
      local ends = at - at % window + window
      if ends > now then
        return level, at > now and at or now, ends, ends == expires
      end
    end
  end
  return 0, now, now - now % window + window, false
end

local function fixedOver(count, hits, limit)
  return hits > limit or count + hits > limit
end

-- fixedApply is the new cell.
local function fixedApply(count, at, ends, hits, limit, code)
  local level = count + (hits < limit and hits or limit)
  if hits < 0 then
    if level < 0 then
      level = 0
    end
  else
    local full = count > limit and count or limit
    if level > full then
      level = full
    end
  end
  if code == 0 then
    return pack('>I7I7I5', ends, at, level)
  end
  local low = at % 16
  return pack('>I6I6', (at - low) / 16, low * 17592186044416 + code * 8589934592 + level)
end
