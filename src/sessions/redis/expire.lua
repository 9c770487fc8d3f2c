-- Ends sessions whose time to live is over. Returns how many.
--
-- ARGV[1]  the target of events
-- ARGV[2]  how many, at most
local names = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now(), 'LIMIT', 0, ARGV[2])
for _, name in ipairs(names) do
    forget(ARGV[1], name, 'expired')
end
return #names
