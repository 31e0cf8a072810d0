-- Removes an entity, if it is there, and publishes an event.
-- KEYS     its hash, the revision of its type, the channel of its type, the index of entities
-- ARGV[1]  the scope in indexes
-- ARGV[2]  the event before its revision
-- ARGV[3]… its type and id
-- ARGV[5]  the incarnation whose entity is meant, or nothing for anybody's
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
    return
end
local found = redis.call('HMGET', KEYS[1], 'entity_type', 'entity_id')
if found[1] ~= ARGV[3] or found[2] ~= ARGV[4] then
    return
end
if ARGV[5] ~= '' then
    local is_json, owner = pcall(cjson.decode, redis.call('HGET', KEYS[1], 'endpoint') or '')
    if is_json and type(owner) == 'table' and owner.incarnation and owner.incarnation ~= ARGV[5] then
        return
    end
end
local revision = count(KEYS[2])
prolong(KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[4], KEYS[1])
close_if_empty(ARGV[1])
redis.call('PUBLISH', KEYS[3], ARGV[2] .. ',"revision":' .. string.format('%.0f', revision) .. '}')
