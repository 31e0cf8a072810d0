-- Writes topology specs and sends the connect messages that follow from them.
-- KEYS  the specs, then one stream a message
-- ARGV  number of specs, time, for each spec three (new text; `any`, `none` or `seen`; text seen),
--       for each message the peer to connect to
-- Returns 1, or 0 if a spec is not as it was seen.
local specs = tonumber(ARGV[1])
for i = 1, specs do
    local state, seen = ARGV[3 * i + 1], ARGV[3 * i + 2]
    if state ~= 'any' then
        local present = redis.call('GET', KEYS[i])
        if state == 'none' and present or state == 'seen' and present ~= seen then
            return 0
        end
    end
end
for i = specs + 1, #KEYS do
    local kind = redis.call('TYPE', KEYS[i]).ok
    if kind ~= 'none' and kind ~= 'stream' then
        return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
    end
end
for i = 1, specs do
    redis.call('SET', KEYS[i], ARGV[3 * i])
end
for i = specs + 1, #KEYS do
    redis.call('XADD', KEYS[i], 'MAXLEN', '~', 1000, '*',
        'type', 'connect_peer', 'peer', ARGV[2 + 2 * specs + i], 'timestamp', ARGV[2])
end
return 1
