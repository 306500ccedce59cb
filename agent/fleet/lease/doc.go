// Package lease divides limits among the nodes of a fleet, so that the sum of what they may
// use never exceeds a limit, whatever is lost, late or cut off.
//
// Open makes a Member. Its owner says what it could use (Want), and at Due takes a Call,
// has the store execute it (Script with Call.Key and Call.Args; ParseReply) and gives what came
// of it to Done, from one goroutine, in this order: Want, Call, Done. Sessions, Rate and Bound
// tell at any moment what may be used. The first node of a new fleet must be told that it is
// (Member.Found), unless all have Options.Nodes: to a store that is empty a new fleet looks
// like one whose members are all cut off.
//
// # What a member may use
//
//	                        of a limit L                     of a count of a day
//	never was a member      0, or L/Nodes                    0
//	member, no floor yet    what is lent to it               0
//	member with a floor     the greater of L/D and           its bound, for 35 hours
//	                        what is lent to it
//	lease over, no store    L/D                              its bound, for 35 hours
//	restarted               0, until the store confirms      0, until it is answered
//	                        L/D, or 10 s without its word
//	restarted, forgotten    0, told so                       0, until it is answered
//	restarted, state lost   as if it never was a member      0
//	L was changed           L/D, until it is answered        0, until it is answered
//	left                    0                                0
//
// D, the divisor, is one number for all limits, so that floors need no state for each limit
// and nothing is asked for them. While nodes have different limits by one name, as one was
// reloaded before the other, and for a lease time after, the sum may exceed the greatest by less than
// the number of nodes: that much of what cannot be divided evenly. What is lent is lent of the smallest.
//
// # Why the sum holds
//
// A claim is what the caller may be using: it lets go first, then calls, and takes more only by
// the reply. So whatever is executed, and however late, at that moment the claim is not less
// than the truth, if it is the caller's latest call that was executed: of one token
// of the store's, the greatest number. The store counts the greater of claim and new grant
// until the next call, or until a lease has surely passed, and grants no more than the limit
// less what it counts for all others.
//
// A session ends with its transaction, later than what it was begun under. It is claimed until then
// (Demand.Used), and a table with smaller floors, which are used at once, is claimed when no session
// is above them. So what a member does that calls is always counted; what it does that was cut off for
// a lease time is not.
//
// Time is witnessed. A call says how long ago, by the node's clock, the reply to an
// earlier one arrived: that long at least lies between the two executions. Such times are added up for each member
// by itself, from one answered call to the next, and what was lent before an answered call has
// ended once its member has witnessed a lease time since. A time common to all members, the
// greatest that any has witnessed, would not do: it lags, and where it catches up a lease of a
// moment ago would seem old. No wall clock is read.
//
// The table of members has a version; a member persists it before it uses or claims it. D is
// never less than the number of members. It grows at once, and shrinks only when
// all have claimed the newest version; a new member has its floor when all others that have one have
// claimed the newest version. Both wait for a lease time more in which what will be floor
// is lent to nobody. It follows that any member with a floor, however old its table, names
// all others that have one, and knows (Table.Low) how great those may be: nobody got one, nor a greater one, without it
// having claimed that table.
//
// A member with a floor that the store's table does not have was forgotten, and started again with
// its file: its floor was given away. So no floor is used after a start before a store that lends has
// confirmed it, and a store without a table does not take that of a node which waits for this. Ten
// seconds without an answer are taken for a store that is away. Forgotten is only who has not
// called since the admin said so, however late the store hears it. With Nodes a part is kept for
// whoever is not there, so nobody needs to wait.
//
// A store that was restarted, failed over, emptied or restored begins a new epoch, with new
// tokens: nothing that was sent before can be executed in it. It takes the table of the first
// caller that has a floor, and for a lease time grants only what is claimed. What was lent under
// another limit than the call says is not claimed: it was let go.
//
// Bounds of counts do not end in that time. Of counts more is lent to a member once all members have
// claimed a table of this epoch that names it: whoever claims has said in the same call what its
// bounds are, and any table that an epoch to come may begin with names all to whom
// something was lent. So where a member is off, and the store was started anew, counts stay where
// they are until the member calls or is forgotten. What is counted must not fall: counts that
// both the store and the node have lost are lost, also those of a node that has left, and of what a
// node counted before it was a member the others know nothing.
//
// Not guarded against: two primaries at once (min-replicas-to-write 1), also one after the
// other, where the first comes back without having been started again or made a replica, and is asked first
// by a node that knows nothing of the second; a state file
// brought back from a backup, a node started again with its file after it was forgotten, while the store is away
// or knows of no table but such a one, two processes
// of one node's name, a virtual machine whose CLOCK_BOOTTIME stands still while it is paused.
package lease
