-- Sends a message to the connections of a session. Returns `ok` with the nodes that were told, or `unknown`.
--
-- ARGV[1]  the session
-- ARGV[2]  the message, as JSON
-- ARGV[3]  the number of the request, and ARGV[4] the life of the node that waits for its outcome
if redis.call('EXISTS', session(ARGV[1])) == 0 then
    return {'unknown'}
end
local reached, missed = command_all(ARGV[1], {send = ARGV[2], request = tonumber(ARGV[3]), reply = ARGV[4]})
return {'ok', reached, missed}
