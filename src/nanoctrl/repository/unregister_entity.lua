-- Removes an entity, if it is there, and publishes an event.
-- KEYS     its hash, the revision of its type, the channel of its type
-- ARGV[1]  the event before its revision
if redis.call('EXISTS', KEYS[1]) == 0 then
    return
end
local revision = redis.call('INCR', KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', KEYS[3], ARGV[1] .. ',"revision":' .. string.format('%.0f', revision) .. '}')
