-- Adds a connection to a session, which may be created by it. Returns `ok` with what the session is, or why there is no connection.
--
-- KEYS[1]   the sorted set of leases
-- ARGV[1]   the session
-- ARGV[2]   the life of the node, and ARGV[3] the number of the connection on it
-- ARGV[4]   1 if the session may be created, with ARGV[5] topics, ARGV[6] grant, ARGV[7] policy, ARGV[8] time to live in milliseconds,
--           ARGV[9] group, ARGV[10] what is published when its last connection goes (a JSON list of target and payload)
-- ARGV[11]  the sessions that there may be, ARGV[12] connections of one, ARGV[13] sessions of the group with connections
-- ARGV[14]  the target of events
-- ARGV[15]  target and ARGV[16] payload of what is published for each connection
-- ARGV[17]  the life of the node under which the connection was registered before, or empty
local name, life, number = ARGV[1], ARGV[2], ARGV[3]
if not redis.call('ZSCORE', KEYS[1], life) then
    return {'lease'}
end
local key, field = session(name), 'c:' .. life .. ':' .. number
local exists = redis.call('EXISTS', key) == 1
if not exists and ARGV[4] ~= '1' then
    return {'unknown'}
end
if not exists and redis.call('ZCARD', INDEX) >= tonumber(ARGV[11]) then
    return {'sessions'}
end
local policy = exists and redis.call('HGET', key, 'policy') or ARGV[7]
local others = {}
for _, other in ipairs(exists and connections(name) or {}) do
    -- The same one again, whose answer was lost, or of which the node has begun another life.
    if (other[1] ~= life and other[1] ~= ARGV[17]) or other[2] ~= number then
        others[#others + 1] = other
    end
end
if policy == 'first' and #others > 0 then
    return {'taken'}
end
if policy == 'many' and #others >= tonumber(ARGV[12]) then
    return {'connections'}
end
local group = exists and redis.call('HGET', key, 'group') or ARGV[9]
if group ~= '' and redis.call('SISMEMBER', group_set(group), name) == 0 then
    if redis.call('SCARD', group_set(group)) >= tonumber(ARGV[13]) then
        return {'group'}
    end
    redis.call('SADD', group_set(group), name)
end
if not exists then
    redis.call('HSET', key, 'topics', ARGV[5], 'grant', ARGV[6], 'policy', ARGV[7], 'ttl', ARGV[8], 'group', ARGV[9],
        'left', ARGV[10], 'version', now(), 'created', now())
    redis.call('ZADD', INDEX, 0, name)
    announce(ARGV[14], 'created', name, {})
elseif ARGV[10] ~= '' and (redis.call('HGET', key, 'left') or '') == '' then
    -- A backend has created it, which does not know what the contract of its connections publishes.
    redis.call('HSET', key, 'left', ARGV[10])
end
if policy == 'newest' then
    for _, other in ipairs(others) do
        remove_connection(name, other[1], other[2])
        command(other[1], {session = name, close = tonumber(other[2]), reason = 'replaced by a newer connection'})
    end
end
-- If it was registered already, nothing begins.
local is_known = redis.call('HGET', key, field)
if ARGV[17] ~= '' and remove_connection(name, ARGV[17], number) then
    is_known = true
end
redis.call('HSET', key, field, now())
redis.call('SADD', node_set(life), number .. ':' .. name)
redis.call('ZREM', EXPIRY, name)
local heard = 1
if not is_known then
    if #others == 0 then
        announce(ARGV[14], 'connected', name, {node = node_of(life)})
    end
    heard = publish(ARGV[15], ARGV[16])
end
local state = redis.call('HMGET', key, 'version', 'topics', 'grant', 'position')
return {'ok', exists and 0 or 1, #others, state[1], state[2], state[3], state[4] or '', heard}
