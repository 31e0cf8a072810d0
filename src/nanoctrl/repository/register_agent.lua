-- Registers an agent.
-- KEYS[1]  its hash
-- ARGV[1]  seconds to live
-- ARGV[2]  1: refuse if the name is taken; 0: take it over
-- ARGV[3]… fields and values
-- Returns 1, or 0 if the name is taken.
if redis.call('EXISTS', KEYS[1]) == 1 then
    if ARGV[2] == '1' then
        return 0
    end
    redis.call('DEL', KEYS[1])
end
for i = 3, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
