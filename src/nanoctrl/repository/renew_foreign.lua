-- Renews what an agent of DLSlime has, which it does not renew itself.
-- KEYS     the index of its records, the index of topologies, its topology, its stream, its inboxes
-- ARGV[1]  its name
-- ARGV[2]  the scope in indexes
-- ARGV[3]… keys of its records
for i = 3, #KEYS do
    lease(KEYS[i], FOREIGN)
end
if redis.call('EXISTS', KEYS[3]) == 1 then
    enlist(KEYS[2], ARGV[1], ARGV[2], FOREIGN)
end
for i = 3, #ARGV do
    redis.call('SADD', KEYS[1], ARGV[i])
end
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    if redis.call('EXPIRE', key, FOREIGN) == 0 then
        redis.call('SREM', KEYS[1], key)
    end
end
lease(KEYS[1], FOREIGN)
