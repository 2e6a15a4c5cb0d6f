-- Numbers are doubles: whole ones are exact below 2^53. All that is multiplied here
-- stays below 2^52, times (µs since 1970, until the year 2112) and levels alike.

local call, try, attempt, pack, sunpack, spread, byte, char, rep, sub, floor, ceil, concat

-- Globals can't be read while the library is loaded, only when it runs.
local function globals()
  call, try, attempt = redis.call, redis.pcall, pcall
  pack, sunpack, spread = struct.pack, struct.unpack, unpack
  byte, char, rep, sub, concat = string.byte, string.char, string.rep, string.sub, table.concat
  floor, ceil = math.floor, math.ceil
end

local TOO_LARGE = 4503599627370496 -- 2^52: of a time, that it never comes
local LIMB = 67108864 -- 2^26

-- limbs is a·b as hi·2^52 + mid·2^26 + lo.
local function limbs(a, b)
  local a0, b0 = a % LIMB, b % LIMB
  local a1, b1 = (a - a0) / LIMB, (b - b0) / LIMB
  local low = a0 * b0
  local lo = low % LIMB
  local middle = a1 * b0 + a0 * b1 + (low - lo) / LIMB
  local mid = middle % LIMB
  return a1 * b1 + (middle - mid) / LIMB, mid, lo
end

-- mulDiv is a·b/c rounded down, and the remainder. A quotient of 2^52 or more
-- is only known to be that.
local function mulDiv(a, b, c)
  local p = a * b
  if p < TOO_LARGE then
    local r = p % c
    return (p - r) / c, r
  end
  local q = floor(p / c) -- at most 2 off: put right by the exact remainder
  if q >= TOO_LARGE then
    return TOO_LARGE, 0
  end
  local hi, mid, lo = limbs(a, b)
  local h, m, l = limbs(q, c)
  local r = (hi - h) * TOO_LARGE + (mid - m) * LIMB + (lo - l)
  while r < 0 do
    q, r = q - 1, r + c
  end
  while r >= c do
    q, r = q + 1, r - c
  end
  return q, r
end
