-- The store of a fleet's leases: one call of one member, as package lease explains it.
-- store.go has the same rules in Go, to be read beside it, and tests hold the two to equal replies.
--
-- KEYS[1]  a hash: field "" is the fleet's state, the others are limits that are lent
-- ARGV[1]  the call but for its asks, in JSON (Call.Args)
-- ARGV[2], ARGV[3]  "": of tests alone, this server's incarnation and something unique
-- ARGV[4]  five for each ask, in MessagePack: field, whether it is a count, limit, want or used, claim
--
-- The reply is a list: the reply but for its grants, in JSON, and a grant for each ask.

local LEASE, TURN, DAYS, MARK = 31000, 120000, 72 * 3600000, 1000
local max, min, floor = math.max, math.min, math.floor
local pack, unpackm = cmsgpack.pack, cmsgpack.unpack
local key, c = KEYS[1], cjson.decode(ARGV[1])

-- A restart has another run_id, a replica that becomes primary another master_replid. The number
-- says of which form the records are: nodes of two forms give each other new epochs, so none lends.
local run, unique = ARGV[2], ARGV[3]
if run == '' then
  run = '2' .. string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') ..
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
local node, eid, places = c.node, st.eid, {}
for i, s in ipairs(st.s) do places[s] = i end
-- What is the same for all limits of a size: each member's floor; taken, those of the others and of
-- nodes that never called.
local sizes = {}
local function size(limit)
  local f = {taken = nodes > 0 and unseen * floor(limit / nodes) or 0}
  for i, d in ipairs(div) do
    f[i] = d > 0 and floor(limit / d) or 0
    if i ~= places[node] then f.taken = f.taken + f[i] end
  end
  sizes[limit] = f
  return f
end

-- A limit's record is a list: epoch; of a count when it was last asked for, else false; and of each
-- part five, or of a count three: name, want or used, hold, seq, limit. Lists that are used for
-- one limit after another, and no tables in them, halve what the call takes.
local wants, floors, at = {}, {}, {}
-- The sum if all that ask are filled to a level, none under its floor.
local function filled(level, asking)
  local sum = 0
  for i = 1, asking do
    local w, f = wants[i], floors[i]
    if w > level then w = level end
    sum = sum + (w > f and w or f)
  end
  return sum
end

local unequal = {} -- limits that are smaller with others
-- What the caller may use of a limit until its lease ends. Where others have a smaller limit by
-- that name, it is that one.
local function lease(field, rec, limit, want, claim)
  local mine, less, last = limit, nil, 2
  for i = 3, rec[1] == eid and #rec or 2, 5 do
    local name, theirs = rec[i], rec[i + 4]
    if name ~= node and rec[i + 3] > dead then
      if theirs < limit or less and theirs == limit and name < less then limit, less = theirs, name end
      if i > last + 1 then
        for k = 1, 5 do rec[last + k] = rec[i + k - 1] end
      end
      last = last + 5
    end
  end
  if less and #unequal < 5 then unequal[#unequal + 1] = {f = field, l = limit, n = less} end
  want = min(want, limit)
  local f = sizes[limit] or size(limit)
  local taken, left = f.taken, limit - f.taken -- left: for those who ask
  local me, own, asking = places[node], 0, 0
  if me then
    own, asking = f[me], 1
    wants[1], floors[1], at[1] = want, own, me
  end
  for i = 3, last, 5 do
    local place, hold = places[rec[i]], rec[i + 2]
    if place then
      local x = f[place]
      if hold > x then taken = taken + hold - x end
      left, asking = left + x, asking + 1
      wants[asking], floors[asking], at[asking] = rec[i + 1], x, place
    else
      taken, left = taken + hold, left - hold
    end
  end

  -- The greatest level to which all that ask can be filled.
  local low, high = 0, max(0, limit)
  if filled(high, asking) <= left then
    low = high
  else -- all the same for each is a good guess
    local even = max(0, floor(left / asking))
    if filled(even, asking) > left then
      high = even
    else
      low = even
      if filled(even + 1, asking) > left then high = even end
    end
  end
  while low < high do
    local mid = floor((low + high + 1) / 2)
    if filled(mid, asking) <= left then low = mid else high = mid - 1 end
  end
  local target = max(own, min(want, low))

  -- The rest, one for each, goes round in turns.
  if want > low and own <= low then
    local rest = left - filled(low, asking)
    if rest > 0 then
      local n, rank = 0, 0
      for i = 1, asking do
        if wants[i] > low and floors[i] <= low then
          n = n + 1
          if at[i] < me then rank = rank + 1 end
        end
      end
      local start = floor(now / TURN) + tonumber(string.sub(redis.sha1hex(field), 1, 6), 16)
      if (rank - start) % n < rest then target = target + 1 end
    end
  end

  local grant = max(0, min(target, limit - taken))
  if not serving then grant = min(grant, claim) end
  local hold = max(claim, grant)
  -- The floor that it has is enough to know, the one that is made ready is not.
  local sure = m.act and floor(mine / m.d) or 0
  rec[1], rec[2] = eid, false
  if want > sure or hold > sure then
    rec[last + 1], rec[last + 2], rec[last + 3], rec[last + 4], rec[last + 5] = node, want, hold, seq, mine
    last = last + 5
  end
  return grant, last > 2 and pack(unpack(rec, 1, last))
end

-- How far the caller's count of a day may go.
local function count(rec, limit, used, claim)
  local taken, spent, own = 0, used, #rec + 1
  for i = 3, #rec, 3 do
    if rec[i] == c.id then
      own = i
    else
      taken, spent = taken + rec[i + 2], spent + rec[i + 1]
    end
  end
  local grant = claim
  if st.valid and m.named then
    local ahead = math.ceil(max(0, limit - spent) / (2 * #st.s))
    grant = max(0, min(used + ahead, limit - taken))
  end
  rec[own], rec[own + 1], rec[own + 2] = c.id, used, max(claim, grant)
  rec[1], rec[2] = eid, now
  return grant, pack(unpack(rec))
end

-- What is of no form that is known counts as lost.
local function record(raw)
  local rec = raw and {unpackm(raw)} or {}
  if type(rec[1]) ~= 'string' then rec = {eid, false} end
  return rec
end

local asks = unpackm(ARGV[4])
for from = 0, #asks - 1, 2500 do
  local to = min(from + 2500, #asks) - 1
  local names, sets, gone = {}, {}, {}
  for i = from, to, 5 do names[#names + 1] = asks[i + 1] end
  local recs = redis.call('HMGET', key, unpack(names))
  for k, field in ipairs(names) do
    local i, raw = from + 5 * k - 5, recs[k]
    local limit, want, claim = asks[i + 3], asks[i + 4], asks[i + 5]
    local rec = record(raw)
    local grant, text
    if asks[i + 2] then
      grant, text = count(rec, limit, want, claim)
    else
      grant, text = lease(field, rec, limit, want, claim)
    end
    grants[#grants + 1] = grant
    if text then
      sets[#sets + 1], sets[#sets + 2] = field, text
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
    local rec = record(raw)
    local over = true
    if rec[2] then
      over = rec[1] == eid and rec[2] + DAYS <= now
      if rec[1] ~= eid then
        rec[1], rec[2] = eid, now
        redis.call('HSET', key, field, pack(unpack(rec)))
      end
    elseif rec[1] == eid then
      for i = 3, #rec, 5 do over = over and rec[i + 3] <= dead end
    end
    if over then redis.call('HDEL', key, field) end
  end
end
return finish()
