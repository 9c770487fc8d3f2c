-- Removes connections of a dead node. Returns how many there were.
--
-- ARGV[1]  the life of the node
-- ARGV[2]  the target of events
-- ARGV[3]  how many, at most
local members = redis.call('SPOP', node_set(ARGV[1]), ARGV[3])
for _, member in ipairs(members) do
    local number, name = member:match('^(%d+):(.*)$')
    if remove_connection(name, ARGV[1], number) and #connections(name) == 0 then
        disconnected(ARGV[2], name, ARGV[1], 'the node has died')
    end
end
return #members
