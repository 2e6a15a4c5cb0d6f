-- hard.go in Lua. A cell is expires, at (7 bytes each), tick (4), last (7), size
-- and fill (4 each), then the stamps from the oldest on, 2 bytes each.

local HEAD = 33
local SEGMENTS = 120

local function tickOf(at, tick)
  return ceil(at / tick)
end

-- hardLook is how many hits a cell holds, the time, and how many segments are gone, of how many.
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

-- hardAdd counts hits at a tick, behind the stamps that lie in text from a byte on: those that stay, the new ones, and the new fill.
local function hardAdd(text, from, size, fill, hits, tick)
  local stamp, stop, n = stampOf(tick), -1, 0
  local room = size - fill
  if room > 0 and #text >= from then -- in the newest segment
    if hits <= room then
      return sub(text, from, -3), stamp, fill + hits
    end
    stop, n, hits = -3, 1, hits - room
  end
  local more = ceil(hits / size)
  return sub(text, from, stop), rep(stamp, n + more), hits - (more - 1) * size
end

-- hardTurn brings the segments to a time and into a form: a text, from where on it has the stamps, the newest one's tick, size and fill.
local function hardTurn(v, used, at, gone, len, wantTick, wantSize)
  local tick, last, size, fill = sunpack('>I4I7I4I4', v, 15)
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
  local grain = wantSize
  if used > grain * SEGMENTS then
    grain = size
  end
  if tick ~= wantTick or size ~= grain then
    stamps = stamps or hardDecode(v, gone, len, last)
    local latest, out, outFill, outLast = tickOf(at, wantTick), '', 0, 0
    for i = 1, #stamps do
      outLast = tickOf(stamps[i] * tick, wantTick)
      if outLast > latest then
        outLast = latest
      end
      local old, new
      old, new, outFill = hardAdd(out, 1, grain, outFill, i == #stamps and fill or size, outLast)
      out = old .. new
    end
    return out, 1, outLast, grain, outFill
  end
  if not stamps then
    return v, HEAD + 1 + 2 * gone, last, size, fill
  end
  for i = 1, #stamps do
    stamps[i] = stampOf(stamps[i])
  end
  return concat(stamps), 1, last, size, fill
end

-- hardApply is the new cell and when it expires. used, at, gone and len are what hardLook says of the one before.
local function hardApply(v, used, at, gone, len, hits, limit, window, tick)
  local text, from, last, size, fill = '', 1, 0, ceil(limit / SEGMENTS), 0
  if gone < len then
    text, from, last, size, fill = hardTurn(v, used, at, gone, len, tick, size)
  end
  local room = limit - used
  if hits > room then
    hits = room
  end
  local old, new
  if hits > 0 then
    last = tickOf(at, tick)
    old, new, fill = hardAdd(text, from, size, fill, hits, last)
  else
    old, new = sub(text, from), ''
  end
  local expires = last * tick + window
  return pack('>I7I7I4I7I4I4', expires, at, tick, last, size, fill) .. old .. new, expires
end
