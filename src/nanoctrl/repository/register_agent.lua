-- Registers an agent.
-- KEYS     the counter of generated names, the index of agents
-- ARGV[1]  its name, or what a generated one begins with
-- ARGV[2]  1: this name; 0: generate one that is free
-- ARGV[3]  the scope in indexes
-- ARGV[4]  what keys of agents begin with
-- ARGV[5]… fields and values
-- Returns the name, or nothing if it is taken.
local name = ARGV[1]
if ARGV[2] == '0' then
    repeat
        name = ARGV[1] .. '-' .. string.format('%x', count(KEYS[1]))
    until redis.call('EXISTS', ARGV[4] .. name) == 0
    prolong(KEYS[1])
end
local agent = ARGV[4] .. name
if redis.call('EXISTS', agent) == 1 then
    -- Agents of DLSlime that write to their hash after it has expired leave one without lease.
    if redis.call('TTL', agent) < 0 then
        redis.call('EXPIRE', agent, NATIVE)
    end
    return false
end
redis.call('HSET', agent, unpack(ARGV, 5))
redis.call('EXPIRE', agent, NATIVE)
sweep(KEYS[2], ARGV[4])
enlist(KEYS[2], name, ARGV[3], NATIVE)
return name
