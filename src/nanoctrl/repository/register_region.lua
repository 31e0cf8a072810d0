-- Stores a record of an agent.
-- KEYS     the record, the agent's hash, the index of its records, the indexes of others who may call the record theirs
-- ARGV[1]  the record
local seconds = lease_of(KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'EX', seconds)
for i = 4, #KEYS do
    redis.call('SREM', KEYS[i], KEYS[1])
end
redis.call('SADD', KEYS[3], KEYS[1])
lease(KEYS[3], seconds)
