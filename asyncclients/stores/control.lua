-- Read the state of a scope, and before that change what an operator has set; see control.py.
--
-- KEYS: state, members. ARGV: nothing, or field, JSON (empty to remove it), name of the vendor,
-- and milliseconds for which the state is kept at least. A request of a process sets its time
-- to live anew. Returns the server's time, the state and the members.

local STATE, MEMBERS = KEYS[1], KEYS[2]
if #ARGV > 0 then
  local field, value, keep = ARGV[1], ARGV[2], tonumber(ARGV[4])
  if value == '' then
    redis.call('HDEL', STATE, field)
  else
    redis.call('HSET', STATE, field, value)
  end
  redis.call('HSET', STATE, 'vendor', ARGV[3])
  if redis.call('HGET', STATE, 'operator_pause') or redis.call('HGET', STATE, 'operator_quotas') then
    keep = math.max(keep, redis.call('PTTL', STATE))
  end
  redis.call('PEXPIRE', STATE, string.format('%.0f', keep))
end
return {redis.call('TIME'), redis.call('HGETALL', STATE), redis.call('HGETALL', MEMBERS)}
