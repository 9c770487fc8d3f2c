-- Raises the scores of a sorted set, and publishes each count, in one step: whoever reads the set among the published counts
-- reads exactly those before. Returns the new scores, in the order of the members, as JSON.
--
-- KEYS[1]  the sorted set
-- KEYS[2]  the idempotency key, if there is one
-- ARGV[1]  the channel
-- ARGV[2]  milliseconds for which the idempotency key is kept
-- ARGV[3]  a member, and after it its count; the others follow
if KEYS[2] then
    local known = redis.call('GET', KEYS[2])
    if known then
        return known
    end
end
local scores = {}
for place = 3, #ARGV, 2 do
    scores[#scores + 1] = redis.call('ZINCRBY', KEYS[1], ARGV[place + 1], ARGV[place])
    for _ = 1, tonumber(ARGV[place + 1]) do
        redis.call('PUBLISH', ARGV[1], ARGV[place])
    end
end
local answer = cjson.encode(scores)
if KEYS[2] then
    redis.call('SET', KEYS[2], answer, 'PX', ARGV[2])
end
return answer
