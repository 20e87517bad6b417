"""The rules of `ledger.py` in Lua, for Redis and Valkey; see there for what and why.

One script, one round trip, the server's own clock. All keys of a scope carry
its name as their hash tag, so they live in one slot of a cluster. Times are
whole microseconds: exact in a double until the year 2255, but written with `%.0f`,
since Lua would print them with 14 digits.
"""

from __future__ import annotations

KEYS = ("log", "state", "live", "interactive", "background")


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
  local others = redis.call('ZCARD', LIVE) - (redis.call('ZSCORE', LIVE, me) and 1 or 0)
  if others > 0 then put('spent', math.max(get('spent'), now + claim.notice)) end
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

-- Who is alive.
local live, rank = 0, 0
if claim.beat or claim.leave then
  local gone = redis.call('ZREMRANGEBYSCORE', LIVE, '-inf', text(now))
  if claim.leave then
    gone = gone + redis.call('ZREM', LIVE, me)
  else
    gone = gone + redis.call('ZADD', LIVE, text(now + claim.live), me)
  end
  if gone > 0 then put('changed', now) end
  for _, name in ipairs(redis.call('ZRANGE', LIVE, 0, -1)) do
    live = live + 1
    if name < me then rank = rank + 1 end
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
return {now, state.epoch, opens, wait, math.max(0, pause - now),
  get('admitted'), get('refused'), rivals, live, rank, now - get('changed'), names}
"""
