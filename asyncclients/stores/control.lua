-- Read the state of a scope, and before that change what an operator has set; see control.py.
--
-- KEYS: state. ARGV: nothing, or field, JSON (empty to remove it), name of the vendor, and
-- milliseconds for which the state is kept at least. A request of a process sets its time to
-- live anew. Returns the server's time, and the state as quota_log.lua writes it.

local packed = redis.call('GET', KEYS[1])
if #ARGV > 0 then
  local state, keep = packed and cmsgpack.unpack(packed) or {}, tonumber(ARGV[4])
  state[ARGV[1]], state.vendor = ARGV[2], ARGV[3]
  if (state.operator_pause or '') ~= '' or (state.operator_quotas or '') ~= '' then
    keep = math.max(keep, redis.call('PTTL', KEYS[1]))
  end
  packed = cmsgpack.pack(state)
  redis.call('SET', KEYS[1], packed, 'PX', keep)
end
return {redis.call('TIME'), packed}
