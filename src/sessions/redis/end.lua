-- Ends a session, and its connections. Returns `ok` with the nodes that were told, or `unknown`.
--
-- ARGV[1]  the session
-- ARGV[2]  the reason
-- ARGV[3]  the target of events
-- ARGV[4]  the number of the request, and ARGV[5] the life of the node that waits for its outcome
local name = ARGV[1]
if redis.call('EXISTS', session(name)) == 0 then
    return {'unknown'}
end
local reached, missed = command_all(name, {ended = ARGV[2], request = tonumber(ARGV[4]), reply = ARGV[5]})
local open = connections(name)
for _, connection in ipairs(open) do
    remove_connection(name, connection[1], connection[2])
end
if #open > 0 then
    redis.call('HSET', session(name), 'ttl', 1)
    disconnected(ARGV[3], name, open[1][1], ARGV[2])
end
forget(ARGV[3], name, ARGV[2])
return {'ok', reached, missed}
