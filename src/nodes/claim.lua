-- Ends leases that have expired, by the clock of Redis, and makes a node the heir of their nodes. Of several nodes that try,
-- one becomes the heir; it remains so until it has finished, or its own lease has ended. Returns the nodes that it is heir of.
--
-- KEYS[1]  the sorted set of leases: node -> expiry, in milliseconds since the Unix epoch
-- KEYS[2]  the sorted set of leases that others have ended: node -> time
-- KEYS[3]  the hash of heirs: dead node -> heir
-- ARGV[1]  the node that becomes the heir
-- ARGV[2]  how many leases to end, and nodes to return
-- ARGV[3]  milliseconds for which an ended lease is remembered
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    return {}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])) do
    if node ~= ARGV[1] then
        redis.call('ZREM', KEYS[1], node)
        redis.call('ZADD', KEYS[2], now, node)
        redis.call('HSET', KEYS[3], node, ARGV[1])
    end
end
local mine = {}
local heirs = redis.call('HGETALL', KEYS[3])
for place = 1, #heirs, 2 do
    local node, heir = heirs[place], heirs[place + 1]
    if #mine < tonumber(ARGV[2]) and (heir == ARGV[1] or not redis.call('ZSCORE', KEYS[1], heir)) then
        redis.call('HSET', KEYS[3], node, ARGV[1])
        mine[#mine + 1] = node
    end
end
return mine
