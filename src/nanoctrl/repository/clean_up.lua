-- Removes what an agent leaves behind, and tells its peers.
-- KEYS     the indexes of agents, topologies and of its records, its hash, then what else is to be removed
-- ARGV[1]  its name
-- ARGV[2]  the scope in indexes
-- ARGV[3]  the event
-- ARGV[4]  events that an inbox keeps
-- ARGV[5]  the incarnation that is meant, or nothing for whichever has the name
-- ARGV[6]… keys of a peer's hash and of an inbox of the peer
-- Returns 1, or 0 if another incarnation has the name.
if ARGV[5] ~= '' and redis.call('EXISTS', KEYS[4]) == 1
    and redis.pcall('HGET', KEYS[4], 'incarnation') ~= ARGV[5] then
    return 0
end
for i = 3, #KEYS do
    redis.call('DEL', KEYS[i])
end
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('SREM', KEYS[2], ARGV[1])
for i = 6, #ARGV, 2 do
    local inbox = ARGV[i + 1]
    redis.call('LPUSH', inbox, ARGV[3])
    redis.call('LTRIM', inbox, 0, ARGV[4] - 1)
    lease(inbox, lease_of(ARGV[i]))
end
close_if_empty(ARGV[2])
return 1
