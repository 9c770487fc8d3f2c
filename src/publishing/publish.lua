-- Publishes a message unless one with the same idempotency key was published before. Returns the id of the entry, or an empty
-- text for a channel.
--
-- KEYS[1]  the idempotency key
-- KEYS[2]  the key of the stream; none for a channel
-- ARGV[1]  milliseconds for which the idempotency key is kept
-- ARGV[2]  the first field of the entry, and after it the others; or the channel, and after it the payload
local known = redis.call('GET', KEYS[1])
if known then
    return known
end
local id = ''
if KEYS[2] then
    id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
else
    redis.call('PUBLISH', ARGV[2], ARGV[3])
end
redis.call('SET', KEYS[1], id, 'PX', ARGV[1])
return id
