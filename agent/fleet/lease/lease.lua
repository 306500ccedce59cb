-- The store of a fleet's leases: one call of one member, as package lease explains it.
-- store.go is the same in Go, line by line, and tests hold the two to equal replies.
--
-- KEYS[1]  a hash: field "" is the fleet's state, the others are limits that are lent
-- ARGV[1]  the call but for its asks, in JSON (Call.Args)
-- ARGV[2], ARGV[3]  "": of tests alone, this server's incarnation and something unique
-- ARGV[4]...        five for each ask: field, kind, limit, want or used, claim
--
-- The reply is a list: the reply but for its grants, in JSON, and a grant for each ask.

local LEASE, TURN, DAYS, MARK = 31000, 120000, 72 * 3600000, 1000
local max, min, floor = math.max, math.min, math.floor
local pack, unpackm = cmsgpack.pack, cmsgpack.unpack
local key, c = KEYS[1], cjson.decode(ARGV[1])

-- A restart has another run_id, a replica that becomes primary another master_replid.
local run, unique = ARGV[2], ARGV[3]
if run == '' then
  run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') ..
    string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  local now = redis.call('TIME')
  unique = now[1] .. '.' .. now[2]
end

local raw = redis.call('HGET', key, '')
local st = raw and unpackm(raw)
local m = st and st.m[c.node]

-- A new epoch, if this is not the store that the caller knew, or not all of it.
if not st or st.run ~= run or c.en > st.en or (c.en == st.en and c.eid ~= st.eid)
  or (m and m.tok == c.tok and m.n < c.ack) then
  local en = max(st and st.en or 0, c.en) + 1
  st = {run = run, en = en, eid = en .. '.' .. string.sub(run, 1, 8) .. '.' .. unique, t = 0, seq = 0, dead = -1, hellos = 0,
    valid = false, s = {}, v = 0, d = 0, low = 0, base = 0, shrink = -1, m = {}, cursor = '0'}
  m = nil
end

local out = {why = '', tok = '', clk = 0, v = '', d = 0, low = 0, s = '', act = false}
local grants = {''}
local function finish()
  redis.call('HSET', key, '', pack(st))
  out.en, out.eid, out.t, out.seq = st.en, st.eid, st.t, st.seq
  grants[1] = cjson.encode(out)
  return grants
end
local function version() return st.eid .. '/' .. st.v end
local function bump() st.v = st.v + 1 end
local function place(name)
  for i, s in ipairs(st.s) do
    if s == name then return i end
  end
end

-- Who has no token of this epoch gets one, and no more; also who comes late: what it claims may
-- be less than it uses by now.
if not m or m.tok ~= c.tok or c.n <= m.n then
  st.hellos = st.hellos + 1
  m = m or {called = false}
  m.tok, m.n, m.marks = st.eid .. ':' .. st.hellos, 0, {}
  st.m[c.node] = m
  out.why, out.tok = 'hello', m.tok
  return finish()
end
out.tok = m.tok
m.n = c.n

-- How much time has certainly passed. A call says how long ago the reply to an earlier one
-- arrived, so that long at least lies between the two executions. Such times are added up member by
-- member, as they follow each other there, and never across members, where they overlap.
out.clk = c.clk + c.since
local marks = m.marks
if #marks == 0 or c.clk - marks[#marks][2] >= MARK then marks[#marks + 1] = {c.seq, c.clk} end
while #marks > 0 and out.clk - marks[1][2] >= LEASE do
  st.dead = max(st.dead, marks[1][1])
  table.remove(marks, 1)
end
st.t, st.seq = max(st.t, c.t + c.since), st.seq + 1
local now, seq, dead = st.t, st.seq, st.dead

if c.leave then
  if not st.valid then
    out.why = 'unknown'
    return finish()
  end
  local i = place(c.node)
  if i then
    table.remove(st.s, i)
    bump()
  end
  st.m[c.node] = nil
  out.why = 'left'
  return finish()
end

-- What the caller may be using. A floor of which the table knows nothing was given away: its node
-- was forgotten, and started again with its file. With a number of nodes it is kept.
local stale = st.valid and c.act and c.v ~= '' and c.nodes == 0 and not (place(c.node) and (m.act or not m.called))
m.called, m.v, m.d, m.act, m.nodes, m.last = true, c.v, c.d, c.act and not stale, c.nodes, seq
local nodes, called = 0, 0
for _, x in pairs(st.m) do
  if x.called then
    nodes, called = max(nodes, x.nodes), called + 1
  end
end

-- The table: from an active member that does not doubt, or the admin says, or all the nodes there
-- are say, that there is none.
if not st.valid then
  if c.act and c.v ~= '' and not c.doubt then
    for s in string.gmatch(c.s, '[^,]+') do st.s[#st.s + 1] = s end
    st.valid, st.d = true, c.d
    st.low = min(c.low, #st.s, c.d)
    st.base = st.low
    bump()
  elseif c.found or (nodes > 0 and called >= nodes) then
    st.valid = true
    bump()
  end
end

local settled, serving = false, false
local reserved = 0
if st.valid then
  local i = c.forget ~= '' and c.forget ~= c.node and dead >= 0 and place(c.forget)
  local x = i and st.m[c.forget]
  if i and not (x and x.called and (x.last > dead or x.last > c.off)) then
    table.remove(st.s, i)
    st.m[c.forget] = nil
    bump()
  end
  if not place(c.node) then
    table.insert(st.s, c.node)
    table.sort(st.s)
    bump()
  end
  -- A table of a former epoch that came later may have the greater divisor: floors must
  -- not grow by what the store has forgotten.
  local least = max(#st.s, nodes)
  local grown = least
  if m.act and string.sub(c.v, 1, #st.eid + 1) ~= st.eid .. '/' then grown = max(least, c.d) end
  if grown > st.d then
    if st.d == 0 then st.low = grown end
    st.d = grown
    bump()
  end

  -- Smaller divisors, a lease after all have the newest table.
  settled = true
  for _, s in ipairs(st.s) do
    local x = st.m[s]
    settled = settled and x and x.called and x.v == version()
  end
  if settled then
    st.low = st.d
    for _, s in ipairs(st.s) do st.m[s].named = true end
  end
  if not settled or least >= st.d then
    st.shrink = -1
  elseif st.shrink < 0 then
    st.shrink = seq
  elseif dead >= st.shrink then
    st.d, st.low, st.shrink = least, least, -1
    bump()
  end
  reserved = st.shrink < 0 and st.d or least

  -- A floor for the caller, a lease after all others that have one have the newest table.
  if not m.act then
    local ready = true
    for _, s in ipairs(st.s) do
      local x = st.m[s]
      if s ~= c.node and (not x or not x.called or (x.act and x.v ~= version())) then ready = false end
    end
    if not ready then
      m.ready = nil
    elseif not m.ready then
      m.ready = seq
    elseif dead >= m.ready then
      m.act, m.d = true, st.d
      out.act = true
    end
  else
    out.act = true
    m.d = min(m.d, st.d)
  end
  out.v, out.d, out.low, out.s = version(), st.d, st.low, table.concat(st.s, ',')
end
serving = st.valid and dead >= 0
if not st.valid then
  out.why = 'unknown'
elseif not serving then
  out.why = 'recovery'
end

-- The divisor of each member's floor, 0: none.
local div = {}
for i, s in ipairs(st.s) do
  local x = st.m[s]
  if not x or not x.called then
    div[i] = min(st.base, reserved)
  elseif x.act then
    div[i] = min(x.d, reserved)
  elseif x.ready then
    div[i] = reserved
  else
    div[i] = 0
  end
end
local unseen = max(0, nodes - #st.s)
local unequal = {} -- limits that are smaller with others
-- What the caller may use of a limit until its lease ends. Where others have a smaller limit by
-- that name, it is that one.
local function lease(field, rec, limit, want, claim)
  if rec.e ~= st.eid then rec = {e = st.eid, m = {}} end
  rec.m[c.node] = nil
  local mine, less = limit, nil
  for s, x in pairs(rec.m) do
    if x[3] <= dead then
      rec.m[s] = nil
    elseif x[4] and (x[4] < limit or less and x[4] == limit and s < less) then
      limit, less = x[4], s
    end
  end
  if less and #unequal < 5 then unequal[#unequal + 1] = {f = field, l = limit, n = less} end
  want = min(want, limit)
  local taken = nodes > 0 and unseen * floor(limit / nodes) or 0
  local left, own = limit - taken, 0 -- left: for those who ask
  local asking, wants, floors = {}, {}, {}
  for i, s in ipairs(st.s) do
    local f = div[i] > 0 and floor(limit / div[i]) or 0
    local x = rec.m[s]
    if s == c.node then
      own = f
      asking[#asking + 1], wants[#wants + 1], floors[#floors + 1] = s, want, f
    elseif x then
      taken = taken + max(f, x[2])
      asking[#asking + 1], wants[#wants + 1], floors[#floors + 1] = s, x[1], f
    else
      taken, left = taken + f, left - f
    end
  end
  for s, x in pairs(rec.m) do
    if not place(s) then taken, left = taken + x[2], left - x[2] end
  end

  -- The greatest level to which all that ask can be filled, none under its floor.
  local function filled(level)
    local sum = 0
    for i, w in ipairs(wants) do sum = sum + max(floors[i], min(w, level)) end
    return sum
  end
  local low, high = 0, max(0, limit)
  if filled(high) <= left then
    low = high
  else -- all the same for each is a good guess
    local even = max(0, floor(left / #asking))
    if filled(even) <= left then
      low = even
      if filled(even + 1) > left then high = even end
    end
  end
  while low < high do
    local mid = floor((low + high + 1) / 2)
    if filled(mid) <= left then low = mid else high = mid - 1 end
  end
  local target = max(own, min(want, low))

  -- The rest, one for each, goes round in turns.
  local rest = left - filled(low)
  if want > low and own <= low and rest > 0 then
    local n, rank = 0, 0
    for i, w in ipairs(wants) do
      if w > low and floors[i] <= low then
        if asking[i] == c.node then rank = n end
        n = n + 1
      end
    end
    local start = floor(now / TURN) + tonumber(string.sub(redis.sha1hex(field), 1, 6), 16)
    if (rank - start) % n < rest then target = target + 1 end
  end

  local grant = max(0, min(target, limit - taken))
  if not serving then grant = min(grant, claim) end
  local hold = max(claim, grant)
  -- The floor that it has is enough to know, the one that is made ready is not.
  local sure = m.act and floor(mine / m.d) or 0
  if want > sure or hold > sure then rec.m[c.node] = {want, hold, seq, mine} end
  return grant, rec, next(rec.m) ~= nil
end

-- How far the caller's count of a day may go.
local function count(rec, limit, used, claim)
  local taken, spent = 0, used
  for id, x in pairs(rec.m) do
    if id ~= c.id then
      taken, spent = taken + x[2], spent + x[1]
    end
  end
  local grant = claim
  if st.valid and m.named then
    local ahead = math.ceil(max(0, limit - spent) / (2 * #st.s))
    grant = max(0, min(used + ahead, limit - taken))
  end
  rec.m[c.id] = {used, max(claim, grant)}
  rec.e, rec.last = st.eid, now
  return grant, rec
end

local asks = (#ARGV - 3) / 5
for from = 0, asks - 1, 500 do
  local to = min(from + 500, asks) - 1
  local names, sets, gone = {}, {}, {}
  for i = from, to do names[#names + 1] = ARGV[4 + 5 * i] end
  local recs = redis.call('HMGET', key, unpack(names))
  for i = from, to do
    local at = 4 + 5 * i
    local field, raw = ARGV[at], recs[i - from + 1]
    local rec = raw and unpackm(raw) or {e = st.eid, m = {}}
    local limit, want, claim = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    local grant, keep = 0, true
    if ARGV[at + 1] == 'c' then
      grant, rec = count(rec, limit, want, claim)
    else
      grant, rec, keep = lease(field, rec, limit, want, claim)
    end
    grants[i + 2] = grant
    if keep then
      sets[#sets + 1], sets[#sets + 2] = field, pack(rec)
    elseif raw then
      gone[#gone + 1] = field
    end
  end
  if #sets > 0 then redis.call('HSET', key, unpack(sets)) end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
end

if #unequal > 0 then out.less = unequal end

-- What nobody holds any more is swept out, a few at each call.
local scan = redis.call('HSCAN', key, st.cursor, 'COUNT', 10)
st.cursor = scan[1]
for i = 1, #scan[2], 2 do
  local field, raw = scan[2][i], scan[2][i + 1]
  if field ~= '' then
    local rec = unpackm(raw)
    local over = true
    if rec.last then
      over = rec.e == st.eid and rec.last + DAYS <= now
      if rec.e ~= st.eid then
        rec.e, rec.last = st.eid, now
        redis.call('HSET', key, field, pack(rec))
      end
    elseif rec.e == st.eid then
      for _, x in pairs(rec.m) do over = over and x[3] <= dead end
    end
    if over then redis.call('HDEL', key, field) end
  end
end
return finish()
