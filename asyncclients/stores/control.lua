-- Read the state of a scope, and before that change what an operator has set; see control.py.
--
-- KEYS: state. ARGV: nothing, or field, JSON (empty to remove it), name of the vendor,
-- milliseconds for which quotas that are set are kept, and an empty QuotaLog as MessagePack. A
-- request of a process sets the time to live anew. Returns the server's time, and the state.

local time, packed = redis.call('TIME'), redis.call('GET', KEYS[1])
if #ARGV > 0 then
  local state, needed_for = cmsgpack.unpack(packed or ARGV[5]), 0
  state[ARGV[1]], state.vendor = ARGV[2], ARGV[3]
  if state.operator_pause ~= '' then
    local stop = cjson.decode(state.operator_pause)['until']
    needed_for = math.ceil(stop - time[1]) * 1000
  end
  for _, quota in pairs(state.quotas or {}) do  -- their windows still count
    local spec = quota.spec
    local ends_in = spec.calendar == '' and 2 * spec.period or spec.next - time[1] * 1000000
    needed_for = math.max(needed_for, math.ceil(ends_in / 1000))
  end
  local keep = state.operator_quotas ~= '' and ARGV[4] or math.max(0, needed_for) + 86400000
  for field, value in pairs(state) do  -- MessagePack would write an empty mapping as an array
    if type(value) == 'table' and next(value) == nil then state[field] = nil end
  end
  packed = cmsgpack.pack(state)
  redis.call('SET', KEYS[1], packed, 'PX', keep)
end
return {time, packed}
