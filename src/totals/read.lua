-- Publishes the members and scores of a sorted set as one JSON array: [number of the set, number of the reading, status,
-- [member, score, ...]]. The status is empty, or says why there are no members: "members", "bytes" or "type".
-- KEYS: the sorted set. ARGV: the channel; both numbers; the largest number of members, and of bytes of the message.
-- Returns the number of subscribers that the message reached.
local CHUNK = 64
local channel, set, reading = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_members, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])

local function message(status, totals)
    return cjson.encode({set, reading, status, totals})
end

local function publish(text)
    return redis.call('PUBLISH', channel, text)
end

local members = redis.pcall('ZCARD', KEYS[1])
if type(members) == 'table' then
    if string.find(members.err, 'WRONGTYPE', 1, true) then return publish(message('type', {})) end
    return members
end
if members > max_members then return publish(message('members', {})) end
-- In small parts, so that a set with too many bytes never has to fit into memory a second time.
local totals, count, bytes = {}, 0, 0
for first = 0, members - 1, CHUNK do
    local texts = redis.call('ZRANGE', KEYS[1], first, first + CHUNK - 1, 'WITHSCORES')
    for index = 1, #texts do
        local text = texts[index]
        bytes = bytes + #text
        totals[count + index] = text
    end
    count = count + #texts
    if bytes > max_bytes then return publish(message('bytes', {})) end
end
-- JSON has escapes, so the message is longer than the texts.
local text = message('', totals)
if #text > max_bytes then text = message('bytes', {}) end
return publish(text)
