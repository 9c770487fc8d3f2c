-- Renews the lease of a node, by the clock of Redis, unless another node has ended it. Returns "kept" if it had one, "new" if it
-- had none or "ended", and after it how many of the other keys exist, which live on.
--
-- KEYS[1]  the sorted set of leases: node -> expiry, in milliseconds since the Unix epoch
-- KEYS[2]  the sorted set of leases that others have ended: node -> time
-- KEYS[3]  a key of the node; the others follow
-- ARGV[1]  the node
-- ARGV[2]  the length of the lease in milliseconds
-- ARGV[3]  milliseconds after which the keys of the node expire
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
    return {'ended', 0}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local outcome = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 'kept' or 'new'
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local present = 0
for place = 3, #KEYS do
    present = present + redis.call('PEXPIRE', KEYS[place], ARGV[3])
end
return {outcome, present}
