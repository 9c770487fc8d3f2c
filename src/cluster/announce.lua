-- Writes the record of a node and renews its lease, or removes both, by the clock of Redis. Removes nodes whose leases have expired.
-- Returns the time in milliseconds since the Unix epoch, the number of nodes with a lease, and the nodes, each followed by its
-- record; those with the newest leases, to which the node itself belongs. A record that is missing or too long is an empty text.
--
-- KEYS[1]  the sorted set of leases: node -> expiry, in milliseconds since the Unix epoch
-- KEYS[2]  the hash of records: node -> JSON
-- ARGV[1]  the node
-- ARGV[2]  its record, an object with at least one field, to which "reported_at" is added; or an empty text to remove it
-- ARGV[3]  the length of the lease in milliseconds
-- ARGV[4]  how many nodes to return
-- ARGV[5]  how many nodes to remove
-- ARGV[6]  the largest record to return, in bytes
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] == '' then
    redis.call('ZREM', KEYS[1], ARGV[1])
    redis.call('HDEL', KEYS[2], ARGV[1])
else
    redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
    redis.call('HSET', KEYS[2], ARGV[1], '{"reported_at":' .. time[1] .. ',' .. string.sub(ARGV[2], 2))
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[5])
if #expired > 0 then
    redis.call('ZREM', KEYS[1], unpack(expired))
    redis.call('HDEL', KEYS[2], unpack(expired))
end
local live = redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', '(' .. now, 'LIMIT', 0, ARGV[4])
local nodes = {}
if #live > 0 then
    for place, record in ipairs(redis.call('HMGET', KEYS[2], unpack(live))) do
        nodes[#nodes + 1] = live[place]
        nodes[#nodes + 1] = record and #record <= tonumber(ARGV[6]) and record or ''
    end
end
return {now, redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf'), nodes}
