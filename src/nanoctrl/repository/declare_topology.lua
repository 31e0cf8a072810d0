-- Writes topology specs and sends the connect messages that follow from them.
-- KEYS  the index of topologies, the specs, then one stream a message
-- ARGV  number of specs, time, the scope in indexes, what keys of agents begin with,
--       for each spec four (owner; new text; `any`, `none` or `seen`; text seen),
--       for each message two (owner of the stream, the peer to connect to)
-- Returns 1, or 0 if a spec is not as it was seen.
local specs = tonumber(ARGV[1])
for i = 1, specs do
    local state, seen = ARGV[4 * i + 3], ARGV[4 * i + 4]
    if state ~= 'any' then
        local present = redis.call('GET', KEYS[i + 1])
        if state == 'none' and present or state == 'seen' and present ~= seen then
            return 0
        end
    end
end
for i = specs + 2, #KEYS do
    local kind = redis.call('TYPE', KEYS[i]).ok
    if kind ~= 'none' and kind ~= 'stream' then
        return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
    end
end
for i = 1, specs do
    local owner = ARGV[4 * i + 1]
    local seconds = lease_of(ARGV[4] .. owner)
    redis.call('SET', KEYS[i + 1], ARGV[4 * i + 2], 'EX', seconds)
    enlist(KEYS[1], owner, ARGV[3], seconds)
end
local leased = {}
for i = specs + 2, #KEYS do
    local at = 5 + 4 * specs + 2 * (i - specs - 2)
    redis.call('XADD', KEYS[i], 'MAXLEN', '~', 1000, '*',
        'type', 'connect_peer', 'peer', ARGV[at + 1], 'timestamp', ARGV[2])
    if not leased[KEYS[i]] then
        leased[KEYS[i]] = true
        lease(KEYS[i], lease_of(ARGV[4] .. ARGV[at]))
    end
end
return 1
