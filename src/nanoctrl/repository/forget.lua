-- Removes members of an index of which the key, prefix and member, has expired.
-- KEYS[1]  the index
-- ARGV[1]  what the keys begin with
-- ARGV[2]  the scope in indexes
-- ARGV[3]… the members
for i = 3, #ARGV do
    if redis.call('EXISTS', ARGV[1] .. ARGV[i]) == 0 then
        redis.call('SREM', KEYS[1], ARGV[i])
    end
end
close_if_empty(ARGV[2])
