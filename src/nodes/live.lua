-- The nodes with a lease, by the clock of Redis.
--
-- KEYS[1]  the sorted set of leases: node -> expiry, in milliseconds since the Unix epoch
-- ARGV[1]  how many
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'LIMIT', 0, ARGV[1])
