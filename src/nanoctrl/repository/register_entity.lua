-- Registers an entity and publishes an event.
-- KEYS     its hash, the revision of its type, the channel of its type
-- ARGV[1]  seconds to live
-- ARGV[2]  the event before its revision
-- ARGV[3]  the event after its revision
-- ARGV[4]… fields and values
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'hash' then
    return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
end
local revision = redis.call('INCR', KEYS[2])
for i = 4, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[3], ARGV[2] .. ',"revision":' .. string.format('%.0f', revision) .. ARGV[3])
