-- Functions that scripts begin with. What an agent has in Redis is on a lease: a time to live that the agent renews.
local SCOPES = 'nanoctrl/scopes'

-- Has a key live for so many seconds more, at least.
local function lease(key, seconds)
    if redis.call('TTL', key) < seconds then
        redis.call('EXPIRE', key, seconds)
    end
end

-- How long what belongs to an agent, or is for it, outlives the last that was heard of it, in seconds. The key is that of its hash.
local function lease_of(agent)
    if redis.pcall('HEXISTS', agent, 'incarnation') == 1 then
        return NATIVE
    end
    return redis.call('EXISTS', agent) == 1 and FOREIGN or UNKNOWN
end

-- Counts, and gives a new counter a lease. One that a server of DLSlime has made has none, since that server does not renew it.
local function count(counter)
    local number = redis.call('INCR', counter)
    if number == 1 then
        redis.call('EXPIRE', counter, NATIVE)
    end
    return number
end

-- Renews the lease of a counter, if it has one.
local function prolong(counter)
    if redis.call('TTL', counter) >= 0 then
        redis.call('EXPIRE', counter, NATIVE)
    end
end

-- Adds a member to an index of a scope.
local function enlist(index, member, scope, seconds)
    redis.call('SADD', index, member)
    lease(index, seconds)
    redis.call('SADD', SCOPES, scope)
    lease(SCOPES, seconds)
end

-- Removes a scope that has no index from the list of scopes.
local function close_if_empty(scope)
    local indexes = { 'nanoctrl/agents/' .. scope, 'nanoctrl/topologies/' .. scope, 'nanoctrl/entities/' .. scope }
    if redis.call('EXISTS', unpack(indexes)) == 0 then
        redis.call('SREM', SCOPES, scope)
    end
end

-- Removes some members of an index of which the key, prefix and member, has expired. Called whenever a member is added, this
-- keeps an index that nobody reads from growing.
local function sweep(index, prefix)
    for _, member in ipairs(redis.call('SRANDMEMBER', index, 4)) do
        if redis.call('EXISTS', prefix .. member) == 0 then
            redis.call('SREM', index, member)
        end
    end
    for _, scope in ipairs(redis.call('SRANDMEMBER', SCOPES, 2)) do
        close_if_empty(scope)
    end
end
