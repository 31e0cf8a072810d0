-- Registers an entity and publishes an event.
-- KEYS     its hash, the revision of its type, the channel of its type, the index of entities
-- ARGV[1]  the scope in indexes
-- ARGV[2]  the event before its revision
-- ARGV[3]  the event after its revision
-- ARGV[4]… fields and values, first its type and id
-- Returns 1, or 0 if the key is that of something else.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'hash' then
    return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
end
local found = redis.call('HMGET', KEYS[1], ARGV[4], ARGV[6])
if kind == 'hash' and (found[1] ~= ARGV[5] or found[2] ~= ARGV[7]) then
    return 0
end
local revision = count(KEYS[2])
prolong(KEYS[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], NATIVE)
sweep(KEYS[4], '')
enlist(KEYS[4], KEYS[1], ARGV[1], NATIVE)
redis.call('PUBLISH', KEYS[3], ARGV[2] .. ',"revision":' .. string.format('%.0f', revision) .. ARGV[3])
return 1
