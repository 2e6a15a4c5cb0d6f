-- hard.go in Lua. A cell is expires, at (7 bytes each), tick (4), last (7), size
-- and fill (4 each), then the stamps from the oldest on, 2 bytes each.

local HEAD = 33
local SEGMENTS = 120

local function tickOf(at, tick)
  return ceil(at / tick)
end

-- hardLook is how many hits a cell holds, the time, and how many segments are gone.
local function hardLook(v, now, window)
  if not v then
    return 0, now, 0, 0
  end
  local expires, at, tick, last, size, fill = sunpack('>I7I7I4I7I4I4', v)
  local len = (#v - HEAD) / 2
  if expires <= now or len == 0 then
    return 0, now, 0, 0
  end
  if at < now then
    at = now
  end
  local gone, before, i = 0, at - window, HEAD + 1
  while gone < len do
    local high, low = byte(v, i, i + 1)
    if (last - (last - high * 256 - low) % 65536) * tick > before then
      break
    end
    gone, i = gone + 1, i + 2
  end
  if gone >= len then
    return 0, at, gone, len
  end
  return size * (len - 1 - gone) + fill, at, gone, len
end

-- hardDecode is the stamps in ticks, without the first few.
local function hardDecode(v, gone, len, last)
  local stamps = {}
  for i = gone, len - 1 do
    local high, low = byte(v, HEAD + 1 + 2 * i, HEAD + 2 + 2 * i)
    stamps[#stamps + 1] = last - (last - high * 256 - low) % 65536
  end
  return stamps
end

local function stampOf(tick)
  local s = tick % 65536
  local low = s % 256
  return char((s - low) / 256, low)
end

-- hardAdd counts hits at a tick: the new stamps and fill.
local function hardAdd(stamps, size, fill, hits, tick)
  local stamp = stampOf(tick)
  if #stamps > 0 and fill < size then
    local n = size - fill
    if hits < n then
      n = hits
    end
    fill, hits = fill + n, hits - n
    stamps = sub(stamps, 1, -3) .. stamp
  end
  if hits > 0 then
    local n = ceil(hits / size)
    fill = hits - (n - 1) * size
    stamps = stamps .. rep(stamp, n)
  end
  return stamps, fill
end

-- hardTurn brings the segments to a time and into a form.
local function hardTurn(v, used, at, gone, len, want)
  local _, _, tick, last, size, fill = sunpack('>I7I7I4I7I4I4', v)
  local stamps
  if (last - 1) * tick >= at then -- of the future: the clock went back, or a rounded tick
    local latest = tickOf(at, tick)
    stamps = hardDecode(v, gone, len, last)
    for i = #stamps, 1, -1 do
      if stamps[i] <= latest then
        break
      end
      stamps[i] = latest
    end
    if latest < last then
      last = latest
    end
  end
  local grain = want.size
  if used > grain * SEGMENTS then
    grain = size
  end
  if tick ~= want.tick or size ~= grain then
    stamps = stamps or hardDecode(v, gone, len, last)
    local latest, out, outFill, outLast = tickOf(at, want.tick), '', 0, 0
    for i = 1, #stamps do
      outLast = tickOf(stamps[i] * tick, want.tick)
      if outLast > latest then
        outLast = latest
      end
      out, outFill = hardAdd(out, grain, outFill, i == #stamps and fill or size, outLast)
    end
    return out, outLast, grain, outFill
  end
  if not stamps then
    return sub(v, HEAD + 1 + 2 * gone), last, size, fill
  end
  for i = 1, #stamps do
    stamps[i] = stampOf(stamps[i])
  end
  return concat(stamps), last, size, fill
end

-- hardApply is the new cell and when it expires.
local function hardApply(v, now, hits, limit, window, tick)
  local used, at, gone, len = hardLook(v, now, window)
  local want = { tick = tick, size = ceil(limit / SEGMENTS) }
  local stamps, last, size, fill = '', 0, want.size, 0
  if gone < len then
    stamps, last, size, fill = hardTurn(v, used, at, gone, len, want)
  end
  local room = limit - used
  if hits > room then
    hits = room
  end
  if hits > 0 then
    last = tickOf(at, tick)
    stamps, fill = hardAdd(stamps, size, fill, hits, last)
  end
  local expires = last * tick + window
  return pack('>I7I7I4I7I4I4', expires, at, tick, last, size, fill) .. stamps, expires
end
