-- Ends sessions whose time to live is over. Returns how many, how many publications Redis has refused so far, and the last error.
--
-- ARGV[1]  the target of events
-- ARGV[2]  how many, at most
local names = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now(), 'LIMIT', 0, ARGV[2])
for _, name in ipairs(names) do
    forget(ARGV[1], name, 'expired')
end
-- Without the permission for it, nothing is known.
local failures = redis.pcall('HMGET', FAILURES, 'count', 'error')
return {#names, tonumber(failures[1] or 0), failures[2] or ''}
