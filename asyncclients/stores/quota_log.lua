-- The rules of quota_log.py for Redis and Valkey. The reasons are in quota_log.py and
-- protocol.py.
--
-- One script call is one round trip with the server's clock. All keys of a scope have its
-- name as their hash tag, so they are in one slot of a cluster. Instants are whole
-- microseconds: exact in a double until the year 2255, and in MessagePack.
--
-- KEYS: state, then the logs of "" and of each other group of request.quotas, in their order.
-- The state is a QuotaLog as MessagePack, without `log` and without what is empty, and with
-- `groups`, whose logs belong to the epoch. The logs are sorted sets.
-- ARGV[1]: a LeaseRequest as JSON. ARGV[2]: the constants, quota_log.RULES, as JSON.
-- ARGV[3]: an empty QuotaLog as MessagePack.
-- Returns a LeaseResponse as MessagePack.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local request, RULES = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local process, cost, offset = request.process, request.cost, request.wall - now
local STATE, LOGS = KEYS[1], {[''] = KEYS[2]}
local next_key = 3
for _, spec in ipairs(request.quotas) do
  if not LOGS[spec.group] then
    LOGS[spec.group] = KEYS[next_key]
    next_key = next_key + 1
  end
end
redis.call('ZADD', KEYS[2], 'XX', 0, '')  -- fails while memory is full, before anything is written

local packed = redis.call('GET', STATE)
local _, state = pcall(cmsgpack.unpack, packed or ARGV[3])
if type(state) ~= 'table' or not state.epoch then
  return redis.error_reply('WRONGTYPE The state was written by another program')
end
state.members, state.quotas = state.members or {}, state.quotas or {}
state.groups = state.groups or {['']=true}  -- the slots of all calls count without a state, too

-- What an operator has set: a pause, and quotas that replace the configured ones.
local held = 0
if state.operator_pause ~= '' then
  local stop = cjson.decode(state.operator_pause)['until']
  held = math.max(0, string.format('%.0f', stop * 1000000) - now)
  if held == 0 then state.operator_pause = '' end
end
local is_obeyed = state.operator_quotas == '' or state.operator_quotas == request.obeys
local is_withheld = held > 0 or not is_obeyed
if is_withheld then request.count = 0 end
if request.vendor ~= '' then state.vendor = request.vendor end

local function hold(duration)
  state.spent_until = math.max(state.spent_until, now + duration)
end

-- Another process of the server has the log now: it may lack the last requests.
if server ~= state.server then
  if state.server ~= '' then
    state.taken_over_at = state.updated_at
    hold(request.takeover_time)
  end
  state.server = server
end
local last_server, seen = unpack(request.seen)
if last_server ~= '' and last_server ~= server and request.epoch == state.epoch
  and state.epoch ~= '' and seen > state.taken_over_at then
  hold(request.recovery_hold + request.takeover_time)
end

-- The clock was set back, or members could not reach the log for a while.
if now + RULES.clock_tolerance < state.updated_at then
  local before = state
  state = cmsgpack.unpack(ARGV[3])
  state.vendor, state.groups = before.vendor, {}
  state.operator_pause, state.operator_quotas = before.operator_pause, before.operator_quotas
  hold(request.recovery_hold + request.detection_time)
  for key, quota in pairs(before.quotas) do
    if quota.spec.calendar ~= '' then
      quota.reported_at = now
      state.quotas[key] = quota
    end
  end
elseif now > state.updated_at + RULES.max_gap then
  for name, member in pairs(state.members) do
    local overdue_at = member.heartbeat_due + RULES.heartbeat_slack
    if name ~= process and overdue_at < now
      and state.updated_at - request.detection_time < overdue_at then
      hold(request.detection_time)
    end
  end
end
state.updated_at = now

-- The process knows another epoch, or this log is new.
local has_lost_data = request.epoch ~= '' and request.epoch ~= state.epoch
if state.epoch == '' then
  state.epoch = request.new_epoch
  has_lost_data = has_lost_data or request.assume_spent
end
if has_lost_data then
  hold(request.recovery_hold + request.detection_time)
elseif request.recovering then
  hold(request.detection_time)
end
has_lost_data = has_lost_data and request.epoch ~= '?'

-- The log of a group ends with its last quota, and with the epoch.
for group, log in pairs(LOGS) do
  if not state.groups[group] then redis.call('DEL', log) end
end

-- The quotas of all processes apply.
local function add_used(quota, start, units)
  quota.used[start] = math.max(0, (quota.used[start] or 0) + units)
end
local function follow(known, quota)
  local spec, units = quota.spec, 0
  if spec.next == known.start and request.wall + 2 * RULES.calendar_skew >= known.start then
    spec.previous, spec.start, spec.next = known.previous, known.start, known.next
  elseif spec.start > known.start then
    local log = LOGS[spec.group]
    local slots = log and redis.call('ZREVRANGE', log, 0, -1, 'WITHSCORES') or {}
    for i = 1, #slots, 2 do
      local status, latest = string.sub(slots[i], 1, 1), slots[i + 1] + offset
      if status == 'f' or (status == 'r' and latest + RULES.calendar_skew < spec.start) then
        units = units + 1
      end
    end
    add_used(quota, spec.start, units)
  end
end
local function name_of(spec)
  local name = string.format('%.0f/%.0f', spec.limit, spec.period)
  if spec.calendar ~= '' then name = name .. '@' .. spec.calendar end
  return spec.group == '' and name or name .. ' ' .. spec.group
end
local reported = {}
local function report(key, spec)
  local known = state.quotas[key]
  local quota = {reported_at = now, spec = spec, tat = known and known.tat or 0, used = {}}
  state.quotas[key], reported[key] = quota, true
  for start, units in pairs(known and known.used or {}) do
    if start >= spec.previous then quota.used[start] = units end
  end
  if spec.calendar ~= '' and (not known or has_lost_data) then add_used(quota, spec.start, spec.used) end
  if spec.calendar ~= '' and known then follow(known.spec, quota) end
end
for _, quota in pairs(state.quotas) do quota.used = quota.used or {} end
for _, spec in ipairs(request.quotas) do report(name_of(spec), spec) end
for _, spec in ipairs(is_obeyed and state.operator_quotas ~= '' and request.operator_quotas or {}) do
  report('set:' .. name_of(spec), spec)
end
local has_set, groups, keep_for, longest, last_end = false, {['']=true}, {['']=0}, 0, 0
for key, quota in pairs(state.quotas) do
  local spec, is_set = quota.spec, string.sub(key, 1, 4) == 'set:'
  if (is_set and is_obeyed and not reported[key]) or quota.reported_at + spec.period + RULES.quota_ttl < now then
    state.quotas[key] = nil
  else
    has_set = has_set or is_set
    groups[spec.group] = state.groups[spec.group] or (LOGS[spec.group] and true)
    if spec.calendar == '' then
      longest = math.max(longest, spec.period)
      keep_for[spec.group] = math.max(keep_for[spec.group] or 0, spec.period)
    elseif spec.next <= request.wall and LOGS[spec.group] then
      local skipped = math.floor((request.wall - spec.next) / spec.period)
      local known = {start = spec.start, next = spec.next}
      spec.start = spec.next + skipped * spec.period
      spec.previous = skipped > 0 and spec.start - spec.period or known.start
      spec.next = spec.start + spec.period
      follow(known, quota)
    end
    if spec.calendar ~= '' then last_end = math.max(last_end, spec.next) end
  end
end
state.groups = groups
local keys, quotas, names = {}, {}, {}
for key, _ in pairs(state.quotas) do keys[#keys + 1] = key end
table.sort(keys)
for _, key in ipairs(keys) do
  local spec = state.quotas[key].spec
  local is_replaceable = spec.group == '' and spec.calendar == ''
  if string.sub(key, 1, 4) == 'set:' or not (has_set and is_replaceable) then
    quotas[#quotas + 1], names[#names + 1] = state.quotas[key], name_of(spec)
  end
end
table.sort(names)

-- The starts of the windows in which a call sent at *wall* may arrive.
local function windows(spec, wall)
  local found = {spec.start}
  if wall - RULES.calendar_skew < spec.start then found[2] = spec.previous end
  if wall + request.lease + request.grace + RULES.calendar_skew >= spec.next then
    found[#found + 1] = spec.next
  end
  return found
end
local function count(group, at, units)
  for _, quota in ipairs(quotas) do
    if quota.spec.calendar ~= '' and quota.spec.group == group then
      for _, start in ipairs(windows(quota.spec, at + offset)) do add_used(quota, start, units) end
    end
  end
end

-- Book what the process reports about its slots.
local function groups_of(wanted)  -- "" and those of which the process has quotas
  local found = {''}
  for _, group in ipairs(wanted) do
    if LOGS[group] then found[#found + 1] = group end
  end
  return found
end
local function slot(status, number) return status .. ':' .. process .. ':' .. number end
local function pop(log, number)
  return redis.call('ZREM', log, slot('r', number), slot('f', number)) > 0
end
local function book(status, number, wanted, latest, counted_at)
  for _, group in ipairs(groups_of(wanted)) do
    local log = LOGS[group]
    local was_known = pop(log, number) or redis.call('ZSCORE', log, slot('a', number))
    redis.call('ZADD', log, latest, slot(status, number))
    if not was_known then count(group, counted_at, 1) end
  end
end
for _, each in ipairs(request.arrived) do
  local number, age, wanted = unpack(each)
  book('a', number, wanted, now - age, now - age)
end
for _, each in ipairs(request.in_flight) do
  book('f', each[1], each[2], now + request.grace, now)
end
local function release(group, number)
  local reserved_until = redis.call('ZSCORE', LOGS[group], slot('r', number))
  if not pop(LOGS[group], number) then return end
  for _, quota in ipairs(quotas) do
    local spec = quota.spec
    if spec.group == group and spec.calendar == '' then
      quota.tat = quota.tat - spec.interval
    elseif spec.group == group and reserved_until then
      local opened = reserved_until - request.lease - request.grace + offset
      if spec.start + 2 * RULES.calendar_skew <= opened and opened < spec.next then
        add_used(quota, spec.start, -1)
      end
    end
  end
end
for group, log in pairs(LOGS) do
  for _, number in ipairs(request.released) do release(group, number) end
  local keep = math.max(keep_for[group] or 0, last_end > 0 and RULES.calendar_memory or 0)
  redis.call('ZREMRANGEBYSCORE', log, '-inf', now - keep)
end

state.accepted = state.accepted + request.accepted
state.rejected = state.rejected + request.rejected
if request.pause > 0 then
  state.paused_until = math.max(state.paused_until, now + request.pause)
  for _, quota in ipairs(quotas) do
    local full_at = state.paused_until + math.floor((quota.spec.burst - 1) * quota.spec.interval)
    quota.tat = math.max(quota.tat, full_at)
  end
end

-- The members, and the block of the quota that each may use in an outage; see shares.py.
local UNIT = RULES.unit
local taken, member_count, total = {}, 0, 0
local function overlaps(from, length)
  for _, block in ipairs(taken) do
    if from < block[1] + block[2] and block[1] < from + length then return true end
  end
end
local function largest_free(limit, own_start, own_size)
  local best_start, best_size, at = own_start, own_size, 0
  table.sort(taken, function(a, b) return a[1] < b[1] end)
  taken[#taken + 1] = {UNIT, 1}
  for _, block in ipairs(taken) do
    local length = limit
    while length > best_size do
      local first = math.ceil(at / length) * length
      if first + length <= block[1] then best_start, best_size = first, length end
      length = math.floor(length / 2)
    end
    at = math.max(at, block[1] + block[2])
  end
  return best_start, best_size
end
local is_changed, is_recovering = (state.members[process] ~= nil) == request.goodbye, state.spent_until > now
local own = state.members[process]
for name, member in pairs(state.members) do
  if member['until'] <= now and not is_recovering then
    state.members[name], is_changed = nil, true
    if name == process then own = nil end
  else
    for class = 1, 2 do
      if member.waits[class] <= now then member.waits[class] = 0 end
    end
    if member.claim and member.claim['until'] <= now then member.claim = nil end
  end
end
if is_changed then state.members_changed_at = now end
state.members[process] = nil
local function held_of(member)
  local size = 0
  for _, block in ipairs(member.blocks) do size = size + block[2] end
  return size
end
for _, member in pairs(state.members) do
  member_count, total = member_count + 1, total + held_of(member)
  for _, block in ipairs(member.blocks) do taken[#taken + 1] = block end
end
local held_start, held_size = unpack(request.block_held)
local function next_block()
  local fair, others_want = UNIT, false
  while fair * (member_count + 1) > UNIT do fair = math.floor(fair / 2) end
  local largest = fair * (member_count + 1) == UNIT and fair or fair * 2
  local may_grow = not request.idle and now - state.members_changed_at >= RULES.settling_time
  local limit = may_grow and largest or math.max(1, math.floor(fair / 2))
  for _, other in pairs(state.members) do
    others_want = others_want or (not other.idle and held_of(other) < fair)
  end
  if held_size == 0 or overlaps(held_start, held_size) then return largest_free(limit, 0, 0) end
  if request.idle and held_size > limit then return held_start, limit end
  if held_size > fair and others_want then return held_start, math.floor(held_size / 2) end
  if others_want then limit = math.min(limit, fair) end
  if held_size < limit and UNIT - total >= 2 * held_size then
    return largest_free(limit, held_start, held_size)
  end
  return held_start, held_size
end
local start, size, place = 0, 0, 0
if not request.goodbye then
  start, size = next_block()
  local blocks, class = {}, request.priority + 1
  if held_size > 0 then blocks[1] = request.block_held end
  if size > 0 and (start ~= held_start or size ~= held_size) then
    blocks[#blocks + 1] = {start, size}
  end
  place = own and own.waits[class] or 0
  own = {['until'] = now + request.ttl, heartbeat_due = now + request.heartbeat_due,
    idle = request.idle, blocks = blocks, waits = {0, 0}, claim = own and own.claim}
  state.members[process] = own
  member_count = member_count + 1
end

-- The quotas that apply to the calls asked for, and the slots that earlier claims have of them.
local groups, applying, longest_interval = groups_of(request.groups), {}, 0
for _, quota in ipairs(quotas) do
  for _, group in ipairs(groups) do
    if quota.spec.group == group then
      applying[#applying + 1] = quota
      longest_interval = math.max(longest_interval, quota.spec.interval)
    end
  end
end
local claimed, has_claims, has_other_class, places = {}, false, false, {}
local own_claim = own and own.claim
for name, member in pairs(state.members) do
  local claim = member.claim
  has_claims = has_claims or claim ~= nil
  has_other_class = has_other_class or member.waits[2 - request.priority] > 0
  if member.waits[request.priority + 1] > 0 then
    places[#places + 1] = member.waits[request.priority + 1]
  end
  if claim and name ~= process and claim.priority <= request.priority and claim.since <= now
    and not (own_claim and own_claim.since <= claim.since) then
    for _, group in ipairs(claim.groups) do claimed[group] = (claimed[group] or 0) + claim.cost end
  end
end

-- Grant slots.
local function calendar_opening(quota, at)
  local spec, skew, full = quota.spec, RULES.calendar_skew, {}
  for _, window in ipairs(windows(spec, at + offset)) do
    if (quota.used[window] or 0) + cost > spec.limit then full[window] = true end
  end
  local next_request = now + request.lease + 1
  if full[spec.start] or full[spec.next] then
    return math.max(at, spec.next + skew - offset, next_request)
  elseif full[spec.previous] then
    return math.max(at, spec.start + skew - offset)
  end
  return at + offset >= spec.next and math.max(at, next_request) or at
end
local function next_opening()
  local at, may_open_sooner, decides = math.max(now, state.spent_until, state.paused_until), false, nil
  for _, quota in ipairs(applying) do
    local spec = quota.spec
    if spec.calendar == '' then
      local ahead = claimed[spec.group] or 0
      local rank = spec.limit - math.min(spec.limit, cost + ahead)
      local found = redis.call('ZREVRANGE', LOGS[spec.group], rank, rank, 'WITHSCORES')
      if found[2] and found[2] + spec.period > at then
        at, decides = found[2] + spec.period, spec
        may_open_sooner = string.sub(found[1], 1, 1) ~= 'a'
      end
      local is_spaced = request.priority == 1
        and state.interactive_at + RULES.interactive_periods * spec.period > now
      local burst = is_spaced and math.min(spec.burst, RULES.background_burst) or spec.burst
      local earliest = quota.tat + ahead * spec.interval
        - math.floor((burst - math.min(cost, burst)) * spec.interval)
      if earliest > at then at, may_open_sooner, decides = earliest, false, spec end
    end
  end
  local is_open
  repeat
    is_open = true
    for _, quota in ipairs(applying) do
      local later = quota.spec.calendar ~= '' and calendar_opening(quota, at) or at
      if later > at then at, may_open_sooner, decides, is_open = later, false, quota.spec, false end
    end
  until is_open
  return at, may_open_sooner, decides
end
local function reserve(at, number)
  local first = request.first + number * cost
  for _, group in ipairs(groups) do
    for each = first, first + cost - 1 do
      redis.call('ZADD', LOGS[group], at + request.lease + request.grace, slot('r', each))
    end
    count(group, at, cost)
  end
  for _, quota in ipairs(applying) do
    quota.tat = math.max(quota.tat, at) + cost * quota.spec.interval
  end
end
local opens_in, retry_in, contenders, waits_for = {}, 0, 0, ''
if request.count > 0 and not request.goodbye then
  if request.priority == 0 then state.interactive_at = now end
  local is_background_due = state.since_background >= RULES.background_every - 1
  local is_yielding = has_other_class and is_background_due == (request.priority == 0)
  local most = request.count
  contenders = #places
  for _, quota in ipairs(applying) do
    if quota.spec.calendar == '' then
      local open_slots = quota.spec.burst + request.lease / quota.spec.interval
      most = math.min(most, math.max(1, math.floor(open_slots / (contenders + 1) / cost)))
    end
  end
  if is_yielding then most = 0 end
  local at, may_open_sooner, decides = next_opening()
  while #opens_in < most and at <= now + request.lease do
    reserve(at, #opens_in)
    opens_in[#opens_in + 1] = at - now
    at, may_open_sooner, decides = next_opening()
  end
  if #opens_in > 0 and request.priority == 1 then
    state.since_background = (1 - cost) * (RULES.background_every - 1)
  else
    state.since_background = state.since_background + #opens_in * cost
  end
  local may_ask_at_once = most > 0 and #opens_in == most and not (contenders > 0 and most < request.count)
  if not may_ask_at_once then retry_in = math.max(0, at - request.lease - now) end
  if may_open_sooner then
    local soonest = at - request.grace - 2 * request.lease - now
    retry_in = math.min(retry_in, math.max(request.min_retry, soonest))
  end
  if cost == 1 and not has_claims and not has_other_class and not may_ask_at_once then
    local ahead = contenders
    if place > 0 and #opens_in == 0 then
      ahead = 0
      for _, other in ipairs(places) do
        if other < place then ahead = ahead + 1 end
      end
    end
    retry_in = retry_in + ahead * longest_interval
  end
  if is_yielding then retry_in = retry_in + RULES.yield_delay end
  local keeps_until = math.max(at, now + retry_in) + RULES.queue_time
  local is_waiting = #opens_in < request.count
  if is_waiting then
    own.waits[request.priority + 1] = keeps_until
    waits_for = decides and name_of(decides) or ''
  end

  -- An expensive call that waits keeps its place; a process that was served waits for the others.
  if cost > 1 then
    local since = own_claim and own_claim.since or now
    if #opens_in > 0 then since = now + #opens_in * cost * contenders * longest_interval end
    own.claim = nil
    if is_waiting or since > now then
      own.claim = {since = since, ['until'] = is_waiting and math.max(since, keeps_until) or since,
        priority = request.priority, cost = is_waiting and cost or 0,
        groups = decides and decides.group ~= '' and {decides.group} or {'', unpack(request.groups)}}
    end
  end
end
if is_withheld then
  retry_in = held > 0 and math.min(held, RULES.hold_retry) or request.min_retry
end

-- MessagePack writes an empty table as an array, so the state has none of a mapping.
local ends_in = math.max(longest * 2, last_end - request.wall, request.ttl)
local keep = math.ceil((ends_in + held) / 1000) + 120000
for _, log in pairs(LOGS) do redis.call('PEXPIRE', log, math.ceil(longest / 500) + 120000) end
if state.operator_quotas ~= '' then keep = RULES.keep_control / 1000 end
for _, quota in pairs(state.quotas) do
  if next(quota.used) == nil then quota.used = nil end
end
for field, value in pairs(state) do
  if type(value) == 'table' and next(value) == nil then state[field] = nil end
end
redis.call('SET', STATE, cmsgpack.pack(state), 'PX', keep)
return cmsgpack.pack({now, state.epoch, server, opens_in, retry_in,
  math.max(0, state.paused_until - now), state.accepted, state.rejected, contenders, member_count,
  start, size, waits_for, names, state.operator_pause, state.operator_quotas, held})
