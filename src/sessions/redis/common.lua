-- What the scripts of sessions share; it stands before each of them. Redis has one server here, so keys are made from names.
--
-- tallycast:sessions              the sorted set of names, all with the score 0, which has them in their order
-- tallycast:sessions:expiry       the sorted set of sessions without connections: name -> expiry, in milliseconds since the Unix epoch
-- tallycast:sessions:node:<life>  the set of a node's connections: <number>:<name>
-- tallycast:sessions:group:<g>    the set of the names of a group that have connections
-- tallycast:sessions:failures     the hash of publications that Redis has refused: their count, and the last error
-- tallycast:session:<name>        the hash of a session; its connections are the fields c:<life>:<number>
local INDEX, EXPIRY = 'tallycast:sessions', 'tallycast:sessions:expiry'
local FAILURES, FAILURES_AGE = 'tallycast:sessions:failures', 3600000
local MAX_EVENTS = 100000

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function session(name)
    return 'tallycast:session:' .. name
end

local function node_set(life)
    return 'tallycast:sessions:node:' .. life
end

local function group_set(group)
    return 'tallycast:sessions:group:' .. group
end

-- Runs a command that tells others of a change. Its failure (a stream of another type, no permission) must not leave the change half
-- done, so it is only counted, for the nodes to log. Returns `nil` then.
local function attempt(...)
    local answer = redis.pcall(...)
    if type(answer) ~= 'table' or not answer.err then
        return answer
    end
    redis.pcall('HINCRBY', FAILURES, 'count', 1)
    redis.pcall('HSET', FAILURES, 'error', answer.err)
    redis.pcall('PEXPIRE', FAILURES, FAILURES_AGE)
    return nil
end

-- Sends a command to a node. Returns whether it listens.
local function command(life, fields)
    return (attempt('PUBLISH', 'tallycast:sessions:node:' .. life, cjson.encode(fields)) or 0) > 0
end

-- `target` is `channel:` and a channel, `stream:` and a key, or empty. Returns how many it has reached, if that is known; otherwise 1.
local function publish(target, payload)
    local kind, place = target:match('^(%a+):(.*)$')
    if kind == 'channel' then
        return attempt('PUBLISH', place, payload) or 0
    elseif kind == 'stream' then
        attempt('XADD', place, 'MAXLEN', '~', MAX_EVENTS, '*', 'data', payload)
    end
    return 1
end

local function announce(target, event, name, fields)
    fields.event, fields.session, fields.at = event, name, now()
    publish(target, cjson.encode(fields))
end

local function node_of(life)
    return life:match('^(.*)#') or life
end

-- The connections of a session, as lists of life and number.
local function connections(name)
    local found = {}
    for _, field in ipairs(redis.call('HKEYS', session(name))) do
        local life, number = field:match('^c:(.*):(%d+)$')
        if life then
            found[#found + 1] = {life, number}
        end
    end
    return found
end

-- Sends a command to each node that has connections of a session. Returns the lives of those that listen, and of the others.
local function command_all(name, fields)
    local reached, missed, known = {}, {}, {}
    fields.session = name
    for _, connection in ipairs(connections(name)) do
        local life = connection[1]
        if not known[life] then
            known[life] = true
            local list = command(life, fields) and reached or missed
            list[#list + 1] = life
        end
    end
    return reached, missed
end

local function remove_connection(name, life, number)
    redis.call('SREM', node_set(life), number .. ':' .. name)
    return redis.call('HDEL', session(name), 'c:' .. life .. ':' .. number) == 1
end

local function forget(events, name, reason)
    local group = redis.call('HGET', session(name), 'group')
    if group and group ~= '' then
        redis.call('SREM', group_set(group), name)
    end
    redis.call('DEL', session(name))
    redis.call('ZREM', INDEX, name)
    redis.call('ZREM', EXPIRY, name)
    announce(events, 'ended', name, {reason = reason})
end

-- The last connection of a session has gone.
local function disconnected(events, name, life, reason)
    local ttl, left, group = unpack(redis.call('HMGET', session(name), 'ttl', 'left', 'group'))
    announce(events, 'disconnected', name, {node = node_of(life), reason = reason})
    if left and left ~= '' then
        local event = cjson.decode(left)
        publish(event[1], event[2])
    end
    if group and group ~= '' then
        redis.call('SREM', group_set(group), name)
    end
    if tonumber(ttl) == 0 then
        forget(events, name, 'expired')
    else
        redis.call('ZADD', EXPIRY, now() + ttl, name)
    end
end
