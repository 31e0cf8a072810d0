-- Removes what an agent leaves behind, and tells its peers.
-- KEYS     the indexes of agents, topologies and of its records, then what else is to be removed
-- ARGV[1]  its name
-- ARGV[2]  the scope in indexes
-- ARGV[3]  the event
-- ARGV[4]  events that an inbox keeps
-- ARGV[5]… keys of a peer's hash and of an inbox of the peer
for i = 3, #KEYS do
    redis.call('DEL', KEYS[i])
end
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('SREM', KEYS[2], ARGV[1])
for i = 5, #ARGV, 2 do
    local inbox = ARGV[i + 1]
    redis.call('LPUSH', inbox, ARGV[3])
    redis.call('LTRIM', inbox, 0, ARGV[4] - 1)
    lease(inbox, lease_of(ARGV[i]))
end
close_if_empty(ARGV[2])
