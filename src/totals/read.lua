-- Publishes the members and scores of sorted sets, each set as one JSON array [number, [member, score, ...]].
-- KEYS: the sorted sets. ARGV: the channel; the largest number of members.
-- Returns the number of subscribers that the last message reached.
local subscribers = 0
for number, key in ipairs(KEYS) do
    if redis.call('ZCARD', key) > tonumber(ARGV[2]) then
        return redis.error_reply('more than ' .. ARGV[2] .. ' members in ' .. key)
    end
    local totals = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    subscribers = redis.call('PUBLISH', ARGV[1], cjson.encode({number, totals}))
end
return subscribers
