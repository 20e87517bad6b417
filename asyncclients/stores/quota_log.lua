-- The rules of quota_log.py for Redis and Valkey. The reasons are in quota_log.py and
-- protocol.py, and the keys and fields are listed in docs/many-processes.md.
--
-- One script call is one round trip with the server's clock. All keys of a scope have its
-- name as their hash tag, so they are in one slot of a cluster. Instants are whole
-- microseconds: exact in a double until the year 2255, but formatted with %.0f, because Lua
-- prints 14 digits.
--
-- KEYS: state, members, interactive, background, then the logs of "" and of each other group
-- of request.quotas, in their order.
-- ARGV[1]: a LeaseRequest as JSON. ARGV[2]: the constants, quota_log.RULES, as JSON.
-- Returns the fields of a LeaseResponse, in order.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local request, RULES = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local STATE, MEMBERS, WAITING = KEYS[1], KEYS[2], {KEYS[3], KEYS[4]}
local LOGS, ALL_LOGS = {[''] = KEYS[5]}, {''}
for _, quota in ipairs(request.quotas) do
  if not LOGS[quota[5]] then
    LOGS[quota[5]] = KEYS[5 + #ALL_LOGS]
    ALL_LOGS[#ALL_LOGS + 1] = quota[5]
  end
end
local process, offset = request.process, request.wall - now

local function text(number) return string.format('%.0f', number) end
local state = {}
local flat = redis.call('HGETALL', STATE)
for i = 1, #flat, 2 do state[flat[i]] = flat[i + 1] end
local function get(field) return tonumber(state[field] or 0) end
local function put(field, value)
  value = type(value) == 'number' and text(value) or value
  if state[field] ~= value then
    state[field] = value
    redis.call('HSET', STATE, field, value)
  end
end
local function drop(field)  -- also in a loop over `state`, which may only lose fields then
  if state[field] then
    redis.call('HDEL', STATE, field)
    state[field] = nil
  end
end

-- "" and those of *groups* of which the process has quotas.
local function groups_of(groups)
  local found = {''}
  for _, group in ipairs(groups) do
    if LOGS[group] then found[#found + 1] = group end
  end
  return found
end

local function hold(duration)
  put('spent_until', math.max(get('spent_until'), now + duration))
end

-- Another process of the server has the log now: it may lack the last requests.
if server ~= (state.server or '') then
  if state.server and state.server ~= '' then
    put('taken_over_at', get('updated_at'))
    hold(request.takeover_time)
  end
  put('server', server)
end
local last_server, seen = unpack(request.seen)
if last_server ~= '' and last_server ~= server and request.epoch == state.epoch
  and seen > get('taken_over_at') then
  hold(request.recovery_hold + request.takeover_time)
end

-- The clock was set back, or members could not reach the log for a while.
if now + RULES.clock_tolerance < get('updated_at') then
  local before = state
  redis.call('DEL', unpack(KEYS))
  state = {}
  for field, value in pairs(before) do
    if string.match(field, '^used:') or string.match(field, '^operator_') then put(field, value) end
  end
  put('spent_until', now + request.recovery_hold + request.detection_time)
elseif now > get('updated_at') + RULES.max_gap then
  local members = redis.call('HGETALL', MEMBERS)
  for i = 1, #members, 2 do
    local overdue_at = tonumber(string.match(members[i + 1], '^%d+ (%d+)')) + RULES.heartbeat_slack
    if members[i] ~= process and overdue_at < now
      and get('updated_at') - request.detection_time < overdue_at then
      hold(request.detection_time)
    end
  end
end
put('updated_at', now)

-- The process knows another epoch, or this log is new.
local lost_data = request.epoch ~= '' and request.epoch ~= state.epoch
if not state.epoch then
  put('epoch', request.new_epoch)
  lost_data = lost_data or request.assume_spent
end
if lost_data then
  hold(request.recovery_hold + request.detection_time)
elseif request.recovering then
  hold(request.detection_time)
end

lost_data = lost_data and request.epoch ~= '?'

-- Units used of a calendar quota, by the start of the window.
local function used_of(name)
  local used = {}
  for start, units in string.gmatch(state['used:' .. name] or '', '(%d+) (%d+)') do
    used[tonumber(start)] = tonumber(units)
  end
  return used
end
local function put_used(name, used)
  local parts = {}
  for start, units in pairs(used) do parts[#parts + 1] = text(start) .. ' ' .. text(units) end
  put('used:' .. name, table.concat(parts, ' '))
end
local function add_used(name, start, units)
  local used = used_of(name)
  used[start] = math.max(0, (used[start] or 0) + units)
  put_used(name, used)
end

-- What an operator has set: a pause, and quotas that replace the configured ones.
if request.vendor ~= '' then put('vendor', request.vendor) end
local held, set, is_withheld = 0, {}, false
if state.operator_pause then
  held = math.max(0, text(cjson.decode(state.operator_pause)['until'] * 1000000) - now)
  if held == 0 then drop('operator_pause') end
end
if state.operator_quotas then
  for _, quota in ipairs(cjson.decode(state.operator_quotas).quotas) do
    set[text(quota.limit) .. '/' .. text(quota.period * 1000000)] = 'set'
  end
  for _, quota in ipairs(request.operator_quotas) do
    local name = text(quota[1]) .. '/' .. text(quota[2])
    is_withheld, set[name] = is_withheld or not set[name], set[name] and 'obeyed'
  end
  for _, status in pairs(set) do is_withheld = is_withheld or status ~= 'obeyed' end
end
is_withheld = is_withheld or held > 0
if is_withheld then request.count = 0 end
for _, quota in ipairs(request.operator_quotas) do
  quota.is_set = true
  table.insert(request.quotas, quota)
end

-- The quotas of all processes apply.
local function put_quota(field, reported_at, interval, burst, previous, start, stop)
  put(field, table.concat({text(reported_at), text(interval), burst, text(previous), text(start),
    text(stop)}, ' '))
end
local entered = {}
for _, quota in ipairs(request.quotas) do
  local limit, period, interval, burst, group, calendar, previous, start, stop, own = unpack(quota)
  local name = text(limit) .. '/' .. text(period)
  if calendar ~= '' then name = name .. '@' .. calendar end
  if group ~= '' then name = name .. ' ' .. group end
  local own_previous, own_start, skew = previous, start, RULES.calendar_skew
  local field = (quota.is_set and 'set:' or 'quota:') .. name
  local last_previous, last_start, last_stop =
    string.match(state[field] or '', '(%d+) (%d+) (%d+)$')
  if calendar ~= '' then
    -- The window of a clock that is a little late is not entered again.
    if last_start and stop == tonumber(last_start) and request.wall + 2 * skew >= stop then
      previous, start, stop = tonumber(last_previous), tonumber(last_start), tonumber(last_stop)
    elseif last_start and start > tonumber(last_start) then
      entered[#entered + 1] = {name = name, group = group, start = start}
    end
  end
  put_quota(field, now, interval, burst, previous, start, stop)
  if calendar ~= '' then
    local is_new, used = not state['used:' .. name], {}
    for at, units in pairs(used_of(name)) do
      if at >= own_previous then used[at] = units end
    end
    if is_new or lost_data then used[own_start] = (used[own_start] or 0) + own end
    put_used(name, used)
  end
end
local quotas, names, longest, has_calendar, last_end = {}, {}, 0, false, 0
local replaced_period = 0
for field, value in pairs(state) do
  local kind, limit, period, calendar, group =
    string.match(field, '^(%a+):(%d+)/(%d+)(@?%S*) ?(.*)$')
  if kind == 'quota' or kind == 'set' then
    local name, numbers = string.sub(field, #kind + 2), {}
    local key = kind == 'set' and field or name
    for number in string.gmatch(value, '%S+') do numbers[#numbers + 1] = tonumber(number) end
    local reported_at, interval, burst, previous, start, stop = unpack(numbers)
    limit, period, calendar = tonumber(limit), tonumber(period), calendar ~= ''
    local is_unset = kind == 'set' and not set[name]
    local is_replaced = kind == 'quota' and next(set) and group == '' and not calendar
    if is_unset or reported_at + period + RULES.quota_ttl < now then
      drop(field)
      drop('tat:' .. key)
      drop('used:' .. name)
    elseif is_replaced then
      longest, replaced_period = math.max(longest, period), math.max(replaced_period, period)
    else
      if calendar and stop <= request.wall and LOGS[group] then
        local skipped = math.floor((request.wall - stop) / period)
        previous = skipped > 0 and stop + (skipped - 1) * period or start
        start, stop = stop + skipped * period, stop + (skipped + 1) * period
        entered[#entered + 1] = {name = name, group = group, start = start}
        put_quota(field, reported_at, interval, burst, previous, start, stop)
      end
      quotas[#quotas + 1] = {name = name, key = key, limit = limit, period = period,
        interval = interval, burst = burst, group = group, calendar = calendar,
        previous = previous, start = start, stop = stop, tat = get('tat:' .. key)}
      names[#names + 1] = name
      if calendar then
        has_calendar, last_end = true, math.max(last_end, stop)
      else
        longest = math.max(longest, period)
      end
    end
  end
end

-- The log of a group ends with its last quota, and with the epoch, when it may not be in KEYS.
local in_force = {}
for _, quota in ipairs(quotas) do in_force['log:' .. quota.group] = true end
for field, _ in pairs(state) do
  if string.match(field, '^log:') and not in_force[field] then drop(field) end
end
for group, log in pairs(LOGS) do
  if group ~= '' and state['log:' .. group] ~= state.epoch then
    redis.call('DEL', log)
    put('log:' .. group, state.epoch)
  end
end
table.sort(names)
table.sort(quotas, function(a, b) return a.key < b.key end)

-- Calls that have not arrived yet may arrive in a window that is entered now.
for _, window in ipairs(entered) do
  local log, units = LOGS[window.group], 0
  local slots = log and redis.call('ZREVRANGE', log, 0, -1, 'WITHSCORES') or {}
  for i = 1, #slots, 2 do
    local status, latest = string.sub(slots[i], 1, 1), tonumber(slots[i + 1]) + offset
    if status == 'f' or (status == 'r' and latest + RULES.calendar_skew < window.start) then
      units = units + 1
    end
  end
  add_used(window.name, window.start, units)
end

-- The starts of the windows in which a call sent at *wall* may arrive.
local function windows(quota, wall)
  local found = {quota.start}
  if wall - RULES.calendar_skew < quota.start then found[2] = quota.previous end
  if wall + request.lease + request.grace + RULES.calendar_skew >= quota.stop then
    found[#found + 1] = quota.stop
  end
  return found
end
local function count(group, at, units)
  for _, quota in ipairs(quotas) do
    if quota.calendar and quota.group == group then
      for _, start in ipairs(windows(quota, at + offset)) do add_used(quota.name, start, units) end
    end
  end
end

-- Book what the process reports about its slots.
local kinds = {}
for i, groups in ipairs(request.kinds) do kinds[i - 1] = groups_of(groups) end
local function slot(status, number) return status .. ':' .. process .. ':' .. text(number) end
local function pop(log, number)
  return redis.call('ZREM', log, slot('r', number), slot('f', number)) > 0
end
local function book(status, number, kind, latest, counted_at)
  for _, group in ipairs(kinds[kind]) do
    local log = LOGS[group]
    local was_known = pop(log, number) or redis.call('ZSCORE', log, slot('a', number))
    redis.call('ZADD', log, text(latest), slot(status, number))
    if not was_known then count(group, counted_at, 1) end
  end
end
for _, report in ipairs(request.arrived) do
  local number, age, kind = unpack(report)
  book('a', number, kind, now - age, now - age)
end
for _, report in ipairs(request.in_flight) do
  local number, kind = unpack(report)
  book('f', number, kind, now + request.grace, now)
end
for _, number in ipairs(request.released) do
  for _, group in ipairs(ALL_LOGS) do
    local reserved_until = redis.call('ZSCORE', LOGS[group], slot('r', number))
    if pop(LOGS[group], number) then
      for _, quota in ipairs(quotas) do
        if quota.group == group and not quota.calendar then
          quota.tat = quota.tat - quota.interval
        elseif quota.group == group and reserved_until then
          local opened = tonumber(reserved_until) - request.lease - request.grace + offset
          if quota.start + 2 * RULES.calendar_skew <= opened and opened < quota.stop then
            add_used(quota.name, quota.start, -1)
          end
        end
      end
    end
  end
end
for _, group in ipairs(ALL_LOGS) do
  local keep_for = has_calendar and RULES.calendar_memory or 0
  if group == '' then keep_for = math.max(keep_for, replaced_period) end
  for _, quota in ipairs(quotas) do
    if quota.group == group and not quota.calendar then
      keep_for = math.max(keep_for, quota.period)
    end
  end
  redis.call('ZREMRANGEBYSCORE', LOGS[group], '-inf', text(now - keep_for))
end

put('accepted', get('accepted') + request.accepted)
put('rejected', get('rejected') + request.rejected)
if request.pause > 0 then
  put('paused_until', math.max(get('paused_until'), now + request.pause))
  for _, quota in ipairs(quotas) do  -- the tat of a calendar quota is not used
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
local is_member, has_expired, total, others = false, false, 0, {}
local is_recovering = get('spent_until') > now
local members = redis.call('HGETALL', MEMBERS)
for i = 1, #members, 2 do
  local fields, held = {}, 0
  for field in string.gmatch(members[i + 1], '%d+') do fields[#fields + 1] = tonumber(field) end
  if fields[1] <= now and not is_recovering then
    redis.call('HDEL', MEMBERS, members[i])
    has_expired = true
  elseif members[i] == process then
    is_member = true
  else
    for n = 4, #fields, 2 do
      taken[#taken + 1] = {fields[n], fields[n + 1]}
      held = held + fields[n + 1]
    end
    total = total + held
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
end

-- The quotas that apply to the calls asked for, and the slots that earlier claims have of them.
local groups, applying, longest_interval = groups_of(request.groups), {}, 0
for _, quota in ipairs(quotas) do
  for _, group in ipairs(groups) do
    if quota.group == group then
      applying[#applying + 1] = quota
      longest_interval = math.max(longest_interval, quota.interval)
    end
  end
end
local claims = {}
for field, value in pairs(state) do
  local owner = string.match(field, '^claim:(.*)$')
  if owner then
    local since, stop, priority, cost, names = string.match(value, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
    if tonumber(stop) <= now then
      drop(field)
    else
      claims[owner] = {since = tonumber(since), priority = tonumber(priority),
        cost = tonumber(cost), groups = names}
    end
  end
end
local own_claim, claimed = claims[process], {}
for owner, claim in pairs(claims) do
  local is_earlier = claim.since <= now and (not own_claim or claim.since < own_claim.since)
  if owner ~= process and is_earlier and claim.priority <= request.priority then
    for group in string.gmatch(claim.groups, '([^\n]*)\n') do
      claimed[group] = (claimed[group] or 0) + claim.cost
    end
  end
end

-- Grant slots.
local spent_until, paused_until = get('spent_until'), get('paused_until')
local function calendar_opening(quota, at)
  local used, full = used_of(quota.name), {}
  for _, start in ipairs(windows(quota, at + offset)) do
    if (used[start] or 0) + request.cost > quota.limit then full[start] = true end
  end
  local next_request = now + request.lease + 1
  if full[quota.start] or full[quota.stop] then
    return math.max(at, quota.stop + RULES.calendar_skew - offset, next_request)
  elseif full[quota.previous] then
    return math.max(at, quota.start + RULES.calendar_skew - offset)
  end
  return at + offset >= quota.stop and math.max(at, next_request) or at
end
local function next_opening()
  local at, may_open_sooner, decides = math.max(now, spent_until, paused_until), false, nil
  for _, quota in ipairs(applying) do
    if not quota.calendar then
      local ahead = claimed[quota.group] or 0
      local rank = quota.limit - math.min(quota.limit, request.cost + ahead)
      local found = redis.call('ZREVRANGE', LOGS[quota.group], rank, rank, 'WITHSCORES')
      if found[2] and tonumber(found[2]) + quota.period > at then
        at, decides = tonumber(found[2]) + quota.period, quota
        may_open_sooner = string.sub(found[1], 1, 1) ~= 'a'
      end
      local is_spaced = request.priority == 1
        and get('interactive_at') + RULES.interactive_periods * quota.period > now
      local burst = is_spaced and math.min(quota.burst, RULES.background_burst) or quota.burst
      local earliest = quota.tat + ahead * quota.interval
        - math.floor((burst - math.min(request.cost, burst)) * quota.interval)
      if earliest > at then at, may_open_sooner, decides = earliest, false, quota end
    end
  end
  local is_open
  repeat
    is_open = true
    for _, quota in ipairs(applying) do
      local later = quota.calendar and calendar_opening(quota, at) or at
      if later > at then at, may_open_sooner, decides, is_open = later, false, quota, false end
    end
  until is_open
  return at, may_open_sooner, decides
end

local opens_in, retry_in, contenders, waits_for = {}, 0, 0, ''
local place = tonumber(redis.call('ZSCORE', WAITING[request.priority + 1], process) or 0)
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
  for _, quota in ipairs(applying) do
    if not quota.calendar then
      local open_slots = quota.burst + request.lease / quota.interval
      local fair = open_slots / (contenders + 1) / request.cost
      most = math.min(most, math.max(1, math.floor(fair)))
    end
  end
  if yields then most = 0 end
  local at, may_open_sooner, decides = next_opening()
  while #opens_in < most and at <= now + request.lease do
    local first = request.first + #opens_in * request.cost
    for _, group in ipairs(groups) do
      for number = first, first + request.cost - 1 do
        redis.call('ZADD', LOGS[group], text(at + request.lease + request.grace), slot('r', number))
      end
      count(group, at, request.cost)
    end
    for _, quota in ipairs(applying) do
      quota.tat = math.max(quota.tat, at) + request.cost * quota.interval
    end
    opens_in[#opens_in + 1] = at - now
    at, may_open_sooner, decides = next_opening()
  end
  if #opens_in > 0 and request.priority == 1 then
    put('since_background', (1 - request.cost) * (RULES.background_every - 1))
  else
    put('since_background', since + #opens_in * request.cost)
  end
  local is_alone = most > 0 and #opens_in == most and not (contenders > 0 and most < request.count)
  if not is_alone then retry_in = math.max(0, at - request.lease - now) end
  if may_open_sooner then
    local soonest = at - request.grace - 2 * request.lease - now
    retry_in = math.min(retry_in, math.max(request.min_retry, soonest))
  end
  local has_turns = request.cost == 1 and next(claims) == nil and redis.call('ZCARD', other) == 0
  if has_turns and not is_alone then
    local ahead = contenders
    if place > now and #opens_in == 0 then
      ahead = redis.call('ZCOUNT', own, '-inf', '(' .. text(place))
    end
    retry_in = retry_in + ahead * longest_interval
  end
  if yields then retry_in = retry_in + RULES.yield_delay end
  local keeps_until = math.max(at, now + retry_in) + RULES.queue_time
  if #opens_in < request.count then
    redis.call('ZADD', own, text(keeps_until), process)
    waits_for = decides and decides.name or ''
  end

  -- An expensive call that waits keeps its place; a process that was served waits for the others.
  if request.cost > 1 then
    local since = own_claim and own_claim.since or now
    if #opens_in > 0 then since = now + #opens_in * request.cost * contenders * longest_interval end
    local claim = {text(since), text(since), request.priority, 0, ''}
    if #opens_in < request.count then
      local wanted = {'', unpack(request.groups)}
      if decides and decides.group ~= '' then wanted = {decides.group} end
      claim = {text(since), text(math.max(since, keeps_until)), request.priority, request.cost,
        table.concat(wanted, '\n') .. '\n'}
    end
    if #opens_in < request.count or since > now then
      put('claim:' .. process, table.concat(claim, ' '))
    else
      drop('claim:' .. process)
    end
  end
end
if is_withheld then
  retry_in = held > 0 and math.min(held, RULES.hold_retry) or request.min_retry
end
for _, quota in ipairs(quotas) do
  if not quota.calendar then put('tat:' .. quota.key, quota.tat) end
end

local keep = text(math.ceil(longest / 500) + 120000)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keep) end
redis.call('PEXPIRE', MEMBERS, text(math.ceil(math.max(longest / 500, request.ttl / 1000)) + 120000))
local ends_in = math.max(longest * 2, last_end - request.wall)
keep = math.ceil((ends_in + held) / 1000) + 120000
redis.call('PEXPIRE', STATE, text(state.operator_quotas and RULES.keep_control or keep))
return {now, state.epoch, server, opens_in, retry_in, math.max(0, paused_until - now), get('accepted'),
  get('rejected'), contenders, member_count, start, size,
  waits_for, names, state.operator_pause or '', state.operator_quotas or '', held}
