"""The rules of `ledger.py` in Lua, for Redis and Valkey; see there for what and why.

One script, one round trip, the server's own clock. All keys of a scope carry
its name as their hash tag, so they live in one slot of a cluster. Times are
whole microseconds: exact in a double until the year 2255, but written with `%.0f`,
since Lua would print them with 14 digits.
"""

from __future__ import annotations

KEYS = ("log", "state", "members", "interactive", "background")


def keys(prefix: str, scope: str) -> list[str]:
    """The keys of *scope*, in the order that the script knows them."""
    return [f"{prefix}:{{{scope}}}:{name}" for name in KEYS]


SCRIPT = r"""
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local claim = cjson.decode(ARGV[1])
local LOG, STATE, LIVE = KEYS[1], KEYS[2], KEYS[3]
local WAITING = {KEYS[4], KEYS[5]}
local me = claim.me

local function text(number) return string.format('%.0f', number) end
local state = {}
local flat = redis.call('HGETALL', STATE)
for i = 1, #flat, 2 do state[flat[i]] = flat[i + 1] end
local function get(field) return tonumber(state[field] or 0) end
local function put(field, number)
  state[field] = text(number)
  redis.call('HSET', STATE, field, state[field])
end

-- Was the clock set back? Or was the ledger out of reach of those who live?
if now + 1000000 < get('at') then
  redis.call('DEL', unpack(KEYS))
  state = {}
  put('spent', now + claim.spent + claim.notice)
elseif now > get('at') + 1250000 then
  local members = redis.call('HGETALL', LIVE)
  for i = 1, #members, 2 do
    local due = tonumber(string.match(members[i + 1], '^%d+ (%d+)'))
    if members[i] ~= me and due + 250000 < now then
      put('spent', math.max(get('spent'), now + claim.notice))
    end
  end
end
put('at', now)

-- Is this the ledger that the process knows?
local stranger = claim.epoch ~= '' and claim.epoch ~= state.epoch
if not state.epoch then
  state.epoch = claim.fresh
  redis.call('HSET', STATE, 'epoch', claim.fresh)
  stranger = stranger or claim.cold
end
if stranger then
  put('spent', math.max(get('spent'), now + claim.spent + claim.notice))
elseif claim.returns then
  put('spent', math.max(get('spent'), now + claim.notice))
end

-- The quotas in force: everyone's.
for _, quota in ipairs(claim.quotas) do
  local field = 'quota:' .. quota[1] .. '/' .. text(quota[2])
  state[field] = text(now) .. ' ' .. text(quota[3]) .. ' ' .. quota[4]
  redis.call('HSET', STATE, field, state[field])
end
local quotas, names, longest = {}, {}, 0
for field, value in pairs(state) do
  local limit, period = string.match(field, '^quota:(%d+)/(%d+)$')
  if limit then
    local seen, interval, burst = string.match(value, '^(%S+) (%S+) (%S+)$')
    local name = limit .. '/' .. period
    if tonumber(seen) + period + 60000000 < now then
      redis.call('HDEL', STATE, field, 'due:' .. name)
    else
      quotas[#quotas + 1] = {name = name, limit = tonumber(limit), period = tonumber(period),
        interval = tonumber(interval), burst = tonumber(burst), due = get('due:' .. name)}
      names[#names + 1] = name
      longest = math.max(longest, tonumber(period))
    end
  end
end
table.sort(names)

-- What became of the slots.
for _, pair in ipairs(claim.settled) do
  redis.call('ZREM', LOG, 'p:' .. me .. ':' .. text(pair[1]))
  redis.call('ZADD', LOG, text(now - pair[2]), 's:' .. me .. ':' .. text(pair[1]))
end
for _, number in ipairs(claim.renewed) do
  redis.call('ZADD', LOG, text(now + claim.grace), 'p:' .. me .. ':' .. text(number))
end
for _, number in ipairs(claim.freed) do
  if redis.call('ZREM', LOG, 'p:' .. me .. ':' .. text(number)) == 1 then
    for _, quota in ipairs(quotas) do quota.due = quota.due - quota.interval end
  end
end
redis.call('ZREMRANGEBYSCORE', LOG, '-inf', text(now - longest))

put('admitted', get('admitted') + claim.admitted)
put('refused', get('refused') + claim.refused)
if claim.pause > 0 then
  put('pause', math.max(get('pause'), now + claim.pause))
  for _, quota in ipairs(quotas) do
    quota.due = math.max(quota.due, get('pause') + math.floor((quota.burst - 1) * quota.interval))
  end
end

-- Who is alive, and each one's block of the quota; see `shares.py`.
local UNIT = 1048576
local taken, live, start, size = {}, 0, 0, 0
local function overlaps(from, length)
  for _, block in ipairs(taken) do
    if from < block[1] + block[2] and block[1] < from + length then return true end
  end
end
local function largest_free(limit, own_start, own_size)
  local best_start, best_size, length = own_start, own_size, limit
  while length > best_size and best_size > 0 do
    local around = own_start - own_start % length
    if not overlaps(around, length) then best_start, best_size = around, length end
    length = math.floor(length / 2)
  end
  table.sort(taken, function(a, b) return a[1] < b[1] end)
  taken[#taken + 1] = {UNIT, 1}
  local at = 0
  for _, block in ipairs(taken) do
    length = limit
    while length > best_size do
      local first = math.ceil(at / length) * length
      if first + length <= block[1] then best_start, best_size = first, length end
      length = math.floor(length / 2)
    end
    at = math.max(at, block[1] + block[2])
  end
  return best_start, best_size
end
if claim.beat or claim.leave then
  local known, changed, without, total, others = false, false, false, 0, {}
  local members = redis.call('HGETALL', LIVE)
  for i = 1, #members, 2 do
    local fields, held = {}, 0
    for field in string.gmatch(members[i + 1], '%d+') do fields[#fields + 1] = tonumber(field) end
    if fields[1] <= now then
      redis.call('HDEL', LIVE, members[i])
      changed = true
    elseif members[i] == me then
      known = true
    else
      for n = 4, #fields, 2 do
        taken[#taken + 1] = {fields[n], fields[n + 1]}
        held = held + fields[n + 1]
      end
      total, without = total + held, without or held == 0
      others[#others + 1] = {idle = fields[3] == 1, held = held}
    end
  end
  if changed or known == claim.leave then put('changed', now) end
  live = #others
  if claim.leave then
    redis.call('HDEL', LIVE, me)
  else
    live = live + 1
    local fair, wanted = UNIT, false
    while fair * live > UNIT do fair = math.floor(fair / 2) end
    local most = fair * live == UNIT and fair or fair * 2
    local steady = not claim.idle and now - get('changed') >= 1000000
    local limit = steady and most or math.max(1, math.floor(fair / 2))
    for _, other in ipairs(others) do
      wanted = wanted or (not other.idle and other.held < fair)
    end
    local held_start, held_size = claim.held[1], claim.held[2]
    start, size = held_start, held_size
    if size == 0 or overlaps(start, size) then
      start, size = largest_free(limit, 0, 0)
    elseif claim.idle and size > limit then
      size = limit
    elseif size > fair and wanted then
      size = math.floor(size / 2)
    else
      if wanted then limit = math.min(limit, fair) end
      if size < limit and UNIT - total >= 2 * size then
        start, size = largest_free(limit, start, size)
      end
    end
    local kept = text(now + claim.live) .. ' ' .. text(now + claim.due) .. ' '
      .. (claim.idle and '1' or '0')
    if held_size > 0 then kept = kept .. ' ' .. text(held_start) .. ' ' .. text(held_size) end
    if size > 0 and (start ~= held_start or size ~= held_size) then
      kept = kept .. ' ' .. text(start) .. ' ' .. text(size)
    end
    redis.call('HSET', LIVE, me, kept)
    without = without or (held_size == 0 and size == 0) or size == 0
    put('hungry', without and now + 1000000 or 0)
  end
end

-- The slots.
local spent, pause = get('spent'), get('pause')
local function opening()
  local at, open_end = math.max(now, spent, pause), false
  for _, quota in ipairs(quotas) do
    local found = redis.call('ZREVRANGE', LOG, quota.limit - 1, quota.limit - 1, 'WITHSCORES')
    if found[2] and tonumber(found[2]) + quota.period > at then
      at, open_end = tonumber(found[2]) + quota.period, string.sub(found[1], 1, 1) == 'p'
    end
    local expected = get('interactive_at') + 10 * quota.period > now
    local burst = claim.priority == 1 and expected and math.min(quota.burst, 1.2) or quota.burst
    local due = quota.due - math.floor((burst - 1) * quota.interval)
    if due > at then at, open_end = due, false end
  end
  return at, open_end
end

local opens, wait, rivals = {}, 0, 0
for _, waiting in ipairs(WAITING) do
  redis.call('ZREMRANGEBYSCORE', waiting, '-inf', text(now))
  redis.call('ZREM', waiting, me)
end
if claim.wanted > 0 then
  if claim.priority == 0 then put('interactive_at', now) end
  local own, other = WAITING[claim.priority + 1], WAITING[2 - claim.priority]
  local since = get('since')
  local yields = redis.call('ZCARD', other) > 0 and (since >= 9) == (claim.priority == 0)
  rivals = redis.call('ZCARD', own)
  local most = claim.wanted
  for _, quota in ipairs(quotas) do
    local room = quota.burst + claim.lease / quota.interval
    most = math.min(most, math.max(1, math.floor(room / (rivals + 1))))
  end
  if yields then most = 0 end
  local at, open_end = opening()
  while #opens < most and at <= now + claim.lease do
    redis.call('ZADD', LOG, text(at + claim.lease + claim.grace),
      'p:' .. me .. ':' .. text(claim.first + #opens))
    for _, quota in ipairs(quotas) do
      quota.due = math.max(quota.due, at) + quota.interval
    end
    opens[#opens + 1] = at - now
    at, open_end = opening()
  end
  put('since', (#opens > 0 and claim.priority == 1) and 0 or since + #opens)
  if most == 0 or #opens < most then wait = math.max(0, at - claim.lease - now) end
  if open_end then
    wait = math.min(wait, math.max(claim.poll, at - claim.grace - 2 * claim.lease - now))
  end
  if yields then wait = wait + 20000 end
  if #opens < claim.wanted then
    redis.call('ZADD', own, text(math.max(at, now + wait) + 100000), me)
  end
end
for _, quota in ipairs(quotas) do put('due:' .. quota.name, quota.due) end

local keep = text(math.ceil(longest / 500) + 120000)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keep) end
redis.call('PEXPIRE', LIVE, text(math.ceil(math.max(longest / 500, claim.live / 1000)) + 120000))
return {now, state.epoch, opens, wait, math.max(0, pause - now), get('admitted'),
  get('refused'), rivals, live, start, size, get('hungry') > now and 1 or 0, names}
"""
