-- Changes a session, or creates it. Returns `ok` with what it is and the nodes that were told, or why it was not changed.
--
-- ARGV[1]   the session
-- ARGV[2]   1 if it may be created
-- ARGV[3]   1 if ARGV[4] replaces all topics, 0 if ARGV[4] are added and ARGV[5] removed, 2 if the topics stay
-- ARGV[6]   grant, ARGV[7] policy, ARGV[8] time to live in milliseconds; empty if they stay
-- ARGV[9]   topics that it may have, ARGV[10] bytes of them, ARGV[11] sessions that there may be
-- ARGV[12]  grant, ARGV[13] policy and ARGV[14] time to live of a session that is created
-- ARGV[15]  the target of events
-- ARGV[16]  the number of the request, and ARGV[17] the life of the node that waits for its outcome
local name = ARGV[1]
local key = session(name)
local exists = redis.call('EXISTS', key) == 1
if not exists and ARGV[2] ~= '1' then
    return {'unknown'}
end
if not exists and redis.call('ZCARD', INDEX) >= tonumber(ARGV[11]) then
    return {'sessions'}
end
local topics = exists and redis.call('HGET', key, 'topics') or ''
if ARGV[3] == '1' then
    topics = ARGV[4]
elseif ARGV[3] == '0' then
    local kept, left, known = {}, {}, {}
    for topic in ARGV[5]:gmatch('[^\n]+') do
        left[topic] = true
    end
    for topic in (topics .. '\n' .. ARGV[4]):gmatch('[^\n]+') do
        if not left[topic] and not known[topic] then
            known[topic] = true
            kept[#kept + 1] = topic
        end
    end
    topics = table.concat(kept, '\n')
end
local _, count = topics:gsub('[^\n]+', '')
if count > tonumber(ARGV[9]) or #topics > tonumber(ARGV[10]) then
    return {'topics'}
end
if not exists then
    redis.call('HSET', key, 'topics', '', 'grant', ARGV[12], 'policy', ARGV[13], 'ttl', ARGV[14], 'group', '', 'left', '',
        'version', now(), 'created', now())
    redis.call('ZADD', INDEX, 0, name)
    announce(ARGV[15], 'created', name, {})
end
redis.call('HSET', key, 'topics', topics)
for place, field in pairs({[6] = 'grant', [7] = 'policy', [8] = 'ttl'}) do
    if ARGV[place] ~= '' then
        redis.call('HSET', key, field, ARGV[place])
    end
end
local version = redis.call('HINCRBY', key, 'version', 1)
local state = redis.call('HMGET', key, 'grant', 'ttl')
if #connections(name) == 0 then
    if tonumber(state[2]) == 0 then
        -- It would end at once.
        redis.call('ZADD', EXPIRY, now() + ARGV[14], name)
    else
        redis.call('ZADD', EXPIRY, now() + state[2], name)
    end
end
local reached, missed = command_all(name,
    {version = version, topics = topics, grant = state[1], request = tonumber(ARGV[16]), reply = ARGV[17]})
return {'ok', exists and 0 or 1, version, topics, reached, missed}
