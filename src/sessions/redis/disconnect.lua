-- Removes connections of a node. Returns how many there were.
--
-- ARGV[1]  the life of the node
-- ARGV[2]  the target of events
-- ARGV[3]  number, session and position of a connection; the others follow
local removed = 0
for place = 3, #ARGV, 3 do
    local number, name, position = ARGV[place], ARGV[place + 1], ARGV[place + 2]
    if remove_connection(name, ARGV[1], number) then
        removed = removed + 1
        if #connections(name) == 0 then
            redis.call('HSET', session(name), 'position', position)
            disconnected(ARGV[2], name, ARGV[1], 'closed')
        end
    end
end
return removed
