-- Removes an entity, if it is there, and publishes an event.
-- KEYS     its hash, the revision of its type, the channel of its type, the index of entities
-- ARGV[1]  the scope in indexes
-- ARGV[2]  the event before its revision
-- ARGV[3]… its type and id
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
    return
end
local found = redis.call('HMGET', KEYS[1], 'entity_type', 'entity_id')
if found[1] ~= ARGV[3] or found[2] ~= ARGV[4] then
    return
end
local revision = count(KEYS[2])
prolong(KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[4], KEYS[1])
close_if_empty(ARGV[1])
redis.call('PUBLISH', KEYS[3], ARGV[2] .. ',"revision":' .. string.format('%.0f', revision) .. '}')
