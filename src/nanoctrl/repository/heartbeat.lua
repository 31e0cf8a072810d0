-- Renews the lease of an agent or entity, and brings it back into its index.
-- KEYS     its hash, the index of agents, that of entities, the counter of agents, that of changes to its type
-- ARGV[1]  its id
-- ARGV[2]  the scope in indexes
-- ARGV[3]  1 if it is an agent
-- Returns nothing if it is not there; else, for an agent of DLSlime, the fields that name its records.
if redis.call('EXPIRE', KEYS[1], NATIVE) == 0 then
    return false
end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' or redis.call('HEXISTS', KEYS[1], 'incarnation') == 1 then
    return {}
end
if redis.call('HEXISTS', KEYS[1], 'info') == 1 then
    enlist(KEYS[3], KEYS[1], ARGV[2], NATIVE)
    prolong(KEYS[5])
end
if ARGV[3] == '0' or redis.call('HEXISTS', KEYS[1], 'addr') == 0 then
    return {}
end
enlist(KEYS[2], ARGV[1], ARGV[2], NATIVE)
prolong(KEYS[4])
return redis.call('HMGET', KEYS[1], 'memory_keys', 'resource')
