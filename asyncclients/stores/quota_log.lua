-- The rules of quota_log.py for Redis and Valkey. The reasons are in quota_log.py and
-- protocol.py, and the keys and fields are listed in protocol.py.
--
-- One script call is one round trip with the server's clock. All keys of a scope have its
-- name as their hash tag, so they are in one slot of a cluster. Instants are whole
-- microseconds: exact in a double until the year 2255, but formatted with %.0f, because Lua
-- prints 14 digits.
--
-- KEYS: log, state, members, interactive, background.
-- ARGV[1]: a LeaseRequest as JSON. ARGV[2]: the constants, quota_log.RULES, as JSON.
-- Returns the fields of a LeaseResponse, in order.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local request, RULES = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local LOG, STATE, MEMBERS = KEYS[1], KEYS[2], KEYS[3]
local WAITING = {KEYS[4], KEYS[5]}
local process = request.process

local function text(number) return string.format('%.0f', number) end
local state = {}
local flat = redis.call('HGETALL', STATE)
for i = 1, #flat, 2 do state[flat[i]] = flat[i + 1] end
local function get(field) return tonumber(state[field] or 0) end
local function put(field, number)
  state[field] = text(number)
  redis.call('HSET', STATE, field, state[field])
end

local function hold(duration)
  put('spent_until', math.max(get('spent_until'), now + duration))
end

-- The clock was set back, or members could not reach the log for a while.
if now + RULES.clock_tolerance < get('updated_at') then
  redis.call('DEL', unpack(KEYS))
  state = {}
  put('spent_until', now + request.recovery_hold + request.detection_time)
elseif now > get('updated_at') + RULES.max_gap then
  local members = redis.call('HGETALL', MEMBERS)
  for i = 1, #members, 2 do
    local due = tonumber(string.match(members[i + 1], '^%d+ (%d+)'))
    if members[i] ~= process and due + RULES.heartbeat_slack < now then
      hold(request.detection_time)
    end
  end
end
put('updated_at', now)

-- The process knows another epoch, or this log is new.
local lost_data = request.epoch ~= '' and request.epoch ~= state.epoch
if not state.epoch then
  state.epoch = request.new_epoch
  redis.call('HSET', STATE, 'epoch', request.new_epoch)
  lost_data = lost_data or request.assume_spent
end
if lost_data then
  hold(request.recovery_hold + request.detection_time)
elseif request.recovering then
  hold(request.detection_time)
end

-- The quotas of all processes apply.
for _, quota in ipairs(request.quotas) do
  local field = 'quota:' .. quota[1] .. '/' .. text(quota[2])
  state[field] = text(now) .. ' ' .. text(quota[3]) .. ' ' .. quota[4]
  redis.call('HSET', STATE, field, state[field])
end
local quotas, names, longest = {}, {}, 0
for field, value in pairs(state) do
  local limit, period = string.match(field, '^quota:(%d+)/(%d+)$')
  if limit then
    local reported_at, interval, burst = string.match(value, '^(%S+) (%S+) (%S+)$')
    local name = limit .. '/' .. period
    if tonumber(reported_at) + period + RULES.quota_ttl < now then
      redis.call('HDEL', STATE, field, 'tat:' .. name)
    else
      quotas[#quotas + 1] = {name = name, limit = tonumber(limit), period = tonumber(period),
        interval = tonumber(interval), burst = tonumber(burst), tat = get('tat:' .. name)}
      names[#names + 1] = name
      longest = math.max(longest, tonumber(period))
    end
  end
end
table.sort(names)

-- Book what the process reports about its slots.
for _, pair in ipairs(request.arrived) do
  redis.call('ZREM', LOG, 'r:' .. process .. ':' .. text(pair[1]))
  redis.call('ZADD', LOG, text(now - pair[2]), 'a:' .. process .. ':' .. text(pair[1]))
end
for _, number in ipairs(request.in_flight) do
  redis.call('ZADD', LOG, text(now + request.grace), 'r:' .. process .. ':' .. text(number))
end
for _, number in ipairs(request.released) do
  if redis.call('ZREM', LOG, 'r:' .. process .. ':' .. text(number)) == 1 then
    for _, quota in ipairs(quotas) do quota.tat = quota.tat - quota.interval end
  end
end
redis.call('ZREMRANGEBYSCORE', LOG, '-inf', text(now - longest))

put('accepted', get('accepted') + request.accepted)
put('rejected', get('rejected') + request.rejected)
if request.pause > 0 then
  put('paused_until', math.max(get('paused_until'), now + request.pause))
  for _, quota in ipairs(quotas) do
    quota.tat = math.max(quota.tat, get('paused_until') + math.floor((quota.burst - 1) * quota.interval))
  end
end

-- The members, and the block of the quota that each may use in an outage; see shares.py.
local UNIT = RULES.unit
local taken, member_count, start, size = {}, 0, 0, 0
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
if request.heartbeat or request.goodbye then
  local is_member, has_expired, is_wanted, total, others = false, false, false, 0, {}
  local members = redis.call('HGETALL', MEMBERS)
  for i = 1, #members, 2 do
    local fields, held = {}, 0
    for field in string.gmatch(members[i + 1], '%d+') do fields[#fields + 1] = tonumber(field) end
    if fields[1] <= now then
      redis.call('HDEL', MEMBERS, members[i])
      has_expired = true
    elseif members[i] == process then
      is_member = true
    else
      for n = 4, #fields, 2 do
        taken[#taken + 1] = {fields[n], fields[n + 1]}
        held = held + fields[n + 1]
      end
      total, is_wanted = total + held, is_wanted or held == 0
      others[#others + 1] = {idle = fields[3] == 1, held = held}
    end
  end
  if has_expired or is_member == request.goodbye then put('members_changed_at', now) end
  member_count = #others
  if request.goodbye then
    redis.call('HDEL', MEMBERS, process)
  else
    member_count = member_count + 1
    local fair, others_want = UNIT, false
    while fair * member_count > UNIT do fair = math.floor(fair / 2) end
    local largest = fair * member_count == UNIT and fair or fair * 2
    local may_grow = not request.idle
      and now - get('members_changed_at') >= RULES.settling_time
    local limit = may_grow and largest or math.max(1, math.floor(fair / 2))
    for _, other in ipairs(others) do
      others_want = others_want or (not other.idle and other.held < fair)
    end
    local held_start, held_size = request.share_held[1], request.share_held[2]
    start, size = held_start, held_size
    if size == 0 or overlaps(start, size) then
      start, size = largest_free(limit, 0, 0)
    elseif request.idle and size > limit then
      size = limit
    elseif size > fair and others_want then
      size = math.floor(size / 2)
    else
      if others_want then limit = math.min(limit, fair) end
      if size < limit and UNIT - total >= 2 * size then
        start, size = largest_free(limit, start, size)
      end
    end
    local member = text(now + request.ttl) .. ' ' .. text(now + request.heartbeat_due) .. ' '
      .. (request.idle and '1' or '0')
    if held_size > 0 then member = member .. ' ' .. text(held_start) .. ' ' .. text(held_size) end
    if size > 0 and (start ~= held_start or size ~= held_size) then
      member = member .. ' ' .. text(start) .. ' ' .. text(size)
    end
    redis.call('HSET', MEMBERS, process, member)
    is_wanted = is_wanted or size == 0
    put('share_wanted_until', is_wanted and now + RULES.share_wait or 0)
  end
end

-- Grant slots.
local spent_until, paused_until = get('spent_until'), get('paused_until')
local function next_opening()
  local at, may_open_sooner = math.max(now, spent_until, paused_until), false
  for _, quota in ipairs(quotas) do
    local found = redis.call('ZREVRANGE', LOG, quota.limit - 1, quota.limit - 1, 'WITHSCORES')
    if found[2] and tonumber(found[2]) + quota.period > at then
      at, may_open_sooner = tonumber(found[2]) + quota.period, string.sub(found[1], 1, 1) == 'r'
    end
    local is_spaced = request.priority == 1
      and get('interactive_at') + RULES.interactive_periods * quota.period > now
    local burst = is_spaced and math.min(quota.burst, RULES.background_burst) or quota.burst
    local earliest = quota.tat - math.floor((burst - 1) * quota.interval)
    if earliest > at then at, may_open_sooner = earliest, false end
  end
  return at, may_open_sooner
end

local opens_in, retry_in, contenders = {}, 0, 0
for _, waiting in ipairs(WAITING) do
  redis.call('ZREMRANGEBYSCORE', waiting, '-inf', text(now))
  redis.call('ZREM', waiting, process)
end
if request.count > 0 then
  if request.priority == 0 then put('interactive_at', now) end
  local own, other = WAITING[request.priority + 1], WAITING[2 - request.priority]
  local since = get('since_background')
  local is_background_due = since >= RULES.background_every - 1
  local yields = redis.call('ZCARD', other) > 0 and is_background_due == (request.priority == 0)
  contenders = redis.call('ZCARD', own)
  local most = request.count
  for _, quota in ipairs(quotas) do
    local open_slots = quota.burst + request.lease / quota.interval
    most = math.min(most, math.max(1, math.floor(open_slots / (contenders + 1))))
  end
  if yields then most = 0 end
  local at, may_open_sooner = next_opening()
  while #opens_in < most and at <= now + request.lease do
    redis.call('ZADD', LOG, text(at + request.lease + request.grace),
      'r:' .. process .. ':' .. text(request.first + #opens_in))
    for _, quota in ipairs(quotas) do
      quota.tat = math.max(quota.tat, at) + quota.interval
    end
    opens_in[#opens_in + 1] = at - now
    at, may_open_sooner = next_opening()
  end
  put('since_background', (#opens_in > 0 and request.priority == 1) and 0 or since + #opens_in)
  if most == 0 or #opens_in < most then retry_in = math.max(0, at - request.lease - now) end
  if may_open_sooner then
    local soonest = at - request.grace - 2 * request.lease - now
    retry_in = math.min(retry_in, math.max(request.min_retry, soonest))
  end
  if yields then retry_in = retry_in + RULES.yield_delay end
  if #opens_in < request.count then
    redis.call('ZADD', own, text(math.max(at, now + retry_in) + RULES.queue_time), process)
  end
end
for _, quota in ipairs(quotas) do put('tat:' .. quota.name, quota.tat) end

local keep = text(math.ceil(longest / 500) + 120000)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keep) end
redis.call('PEXPIRE', MEMBERS, text(math.ceil(math.max(longest / 500, request.ttl / 1000)) + 120000))
return {now, state.epoch, opens_in, retry_in, math.max(0, paused_until - now), get('accepted'),
  get('rejected'), contenders, member_count, start, size, get('share_wanted_until') > now and 1 or 0, names}
