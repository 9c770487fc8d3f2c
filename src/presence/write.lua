-- Writes the topics of a node that have changed, if the node has a lease. Returns 1, or 0 without a lease.
--
-- KEYS[1]  the sorted set of leases
-- KEYS[2]  the hash of the node: topic -> JSON
-- KEYS[3]  the sorted set of its topics, all with the score 0, which has them in their order
-- ARGV[1]  the node
-- ARGV[2]  milliseconds after which both expire
-- ARGV[3]  a topic, and after it its JSON, or an empty text without subscriptions; the others follow
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    return 0
end
for place = 3, #ARGV, 2 do
    local topic, value = ARGV[place], ARGV[place + 1]
    if value == '' then
        redis.call('HDEL', KEYS[2], topic)
        redis.call('ZREM', KEYS[3], topic)
    else
        redis.call('HSET', KEYS[2], topic, value)
        redis.call('ZADD', KEYS[3], 0, topic)
    end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return 1
