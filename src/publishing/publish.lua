-- Publishes a message unless one with the same idempotency key was published before. Returns the id of the entry, or an empty
-- text for a channel.
--
-- KEYS[1]  the idempotency key
-- KEYS[2]  the channel, or the key of the stream
-- ARGV[1]  "channel" or "stream"
-- ARGV[2]  milliseconds for which the idempotency key is kept
-- ARGV[3]  the payload, or the first field of the entry; the others follow
local known = redis.call('GET', KEYS[1])
if known then
    return known
end
local id = ''
if ARGV[1] == 'stream' then
    id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
else
    redis.call('PUBLISH', KEYS[2], ARGV[3])
end
redis.call('SET', KEYS[1], id, 'PX', ARGV[2])
return id
