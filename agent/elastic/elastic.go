// Package elastic decides how many sessions a site gets, at which address each is opened,
// and how fast they may send, where the receiver tells none of its limits.
//
// It owns one thing: the Site, the controller of one site and source address, which hears
// what became of each connect and message. It does no I/O, reads no clock, starts no
// goroutine and takes no lock: the caller passes the time in and calls under its own lock,
// which also guards the slots.Table with the addresses.
//
// The order of calls:
//
//	a, ok := s.Open(now, &slot, candidates)     // with mail waiting; a says where to dial
//	s.Wants(now, candidates)                    // says whether Open would begin a connect
//	s.Hangs(&slot, now)                         // after slots.HangAfter, and now and then
//	s.CameUp | s.Refused | s.Failed | s.Void    // exactly one of them ends the connect
//	s.Foreign                                   // instead of Refused and TooFast, where nothing was ever taken
//	wait := s.MayBegin(&slot, now)              // before each message; 0: it may
//	s.Accepted | s.TooFast | s.Refused          // after it; Refused ends the session, too
//	s.Ended(&slot, now)                         // however else a session that was up ends, as by a 421 once it had its messages
//	s.Surplus(now), s.Next()                    // sessions to retire; when to call Open again
//	s.Rest(now)                                 // about twice a minute: frees what has faded
//
// # Slots
//
// A slot is held at an address from the start of a connect until the receiver has surely
// noticed the end of the connection, a lag after it. A refusal is judged by the slots held
// then, never by how many sessions are up, and what is kept of it is what was accepted,
// never how many were refused. A connect needs a place in both of two tables: the address's
// (slots.Address.Room), which has no bound until one more was refused there, and then what
// was accepted there lately; and the site's, by the number of slots wanted. Evenly filled
// hosts answer alike whether each has a limit or all have one together, so both are kept,
// and nothing depends on which it is. The slots that other sites hold at an address count in
// the limit that a refusal shows, and a site's pace spaces its own messages alone: at the addresses
// that took its mail or said too fast, and at none that somebody lists among his own and that has
// taken nothing (whose). "Too fast" sets the pace to what was accepted, less a twentieth, or to 1/s for all
// addresses together where that is less and fewer than 20 were accepted; one alone after 20 or more
// may be by chance and sets none. It takes no slot. What was accepted is measured over the time in which a
// session was up, and over gaps of up to slots.LagMax that "too fast" left at an address (back). Where a
// message did not wait for the pace, being the first at its address, "too fast" tells nothing of the pace.
// Accepted messages raise the pace again, slowly at first and then ever faster, until it is far above
// what is sent and ends (package slots has the figures). Some receivers say "too fast" to a share of the
// messages whatever the pace: where one says so at paces below what was begun when it first did, a higher
// one is tried.
//
// Each connect has a purpose (slots.Why): growth, the replacement of a session that has
// ended, an early replacement (before the lag is over, to learn whether less would do), or
// a probe (one more than was accepted). Its refusal is read by the purpose.
//
// # States
//
// A site is growing until the first refusal that is not one address's own affair: the slots
// wanted are doubled while that pays by goodput. Where it does not pay the site is on a plateau for
// a while. Such a refusal makes it bounded: it holds what was accepted, and probes for more in rounds.
//
// Three conditions qualify the bounded state:
//
//	on trial    probes won slots that may be others' places (probe.trial)
//	shut        no slot was free for slots.LagMax (refusals.shut)
//	wary        nothing was let in though nothing was up, after one more was refused: refusals are
//	            punished (refusals.punish)
//
// So is each place that the site wants in one state: under way, up, lagging (ended, but maybe
// not noticed), vacant (ended a lag ago, and nobody called since), or waiting: refused to a
// replacement, and tried again there 0.2 s after its first refusal, 0.6 s after the second, 1.4 s
// after the third and 2.8 s after each later one. Until then nobody else is called for it, and no
// round of probes begins. A place is given up when a replacement is refused that
// began after slots are free for sure: by the votes, which may rule out any lag so that the first
// refusal or the second does it, or after slots.LagMax (6 s) where they rule nothing out. A place that
// nobody had, as after an idle time or a restart, waits from the start of its first connect; refused at
// an address with as many up as it accepted, it is one too many there, and waits for nothing.
//
// Where nothing is up, nor was for 6 s, and no other site holds slots there, a refusal may be a door
// and tells of no limit: whatever its connect was for it is read as a replacement's (the address that
// growth went to waits by itself, too), and a growing site grows on afterwards. Else, while a site is
// growing or on a plateau, any refusal is read as growth's. An address that waits by itself does so for
// 0.6 s, and after each further refusal for longer: 1.4, 2.8 and 15 s, 1, 4 and 15 min.
//
// What evidence does; of the rows that fit, the first counts:
//
//	evidence              condition       meaning               action
//	growth is refused     that address    its own affair        it waits by itself; the site grows on, there
//	                      never let one                         too after the wait, and tries it among the
//	                      in, others do                         probes once bounded
//	                      -               the limit             bounded at what is held, under way, vacant or
//	                                                            waiting, but the one refused; that address at what
//	                                                            it accepted, others not; one replacement at a time
//	                                                            at first; a round of probes after 4 s, first
//	                                                            where none was refused yet
//	probe is refused      wary            still the limit       nothing is given up; the wait until the next round
//	                                                            (of one) doubles, 10 to 20 min
//	                      -               still the limit       the same, 8 to 30 s
//	probe is proven       no session      the limit is higher   one more is wanted; when all of the round are
//	                      ended meanwhile                       proven the next begins at once, with twice as many
//	                      -               maybe another's place one more is wanted, on trial
//	replacement accepted  on trial        8 of them: ours       as a probe that is proven
//	replacement refused   wary; or shut,  punished              a quarter of what is held is given up; wary for
//	                      nothing is up;                        1 h; shut for 15 s, then 1, 4, 15 min
//	                      and one more
//	                      was refused
//	                      shortly before
//	                      shut; or none   lowered, busy, a ban  what is held is wanted, at least one; shut for
//	                      let in for 6 s                        15 s, then twice as long each time, up to 4 min;
//	                      and nothing is                        addresses keep what they accepted; votes on the
//	                      up; or so, a                          lag are forgotten
//	                      quarter missing,
//	                      and this place
//	                      ended 6 s before
//	                      on trial        others' places        what is on trial is given back
//	                      waited less     not free yet          the place waits and is tried again
//	                      than can be
//	                      -               one too many, or      one place is given up, at that address and of the
//	                                      somebody took it      site; the address waits by itself if none is up
//	                                                            there but elsewhere; a round of probes within 4 s
//	early replacement     -               -                     nothing but the votes
//	a later message is    -               what is left fits     bounded at what is still held
//	refused as one too
//	many
//	anything is let in    shut            it is over            what was wanted before the first refusal (where
//	                                                            other sites hold slots there, before the last),
//	                                                            less an eighth; but what was held, if no probes
//	                                                            came up since the last time
//	votes for a longer    -               slots lag             each is held so much longer; one replacement at a
//	lag                                                         time at first; where it never was so long, what
//	                                                            was held uncounted when growth was refused is
//	                                                            wanted, too
//	message too fast      more in a row   its own affair        the pace of that address is lowered
//	                      from one only
//	                      than chance
//	                      has it (alone)
//	                      at a pace       chance, maybe         a higher pace is tried, until more than twice as
//	                      below what was                        many are refused, or it holds nothing back; if
//	                      begun when it was                     less is accepted then, the old pace holds again
//	                      cut, again and
//	                      again
//	                      -               the receiver's rate   the pace of all addresses is lowered
//
// A connect that gets no answer, a closed port or a timeout, tells nothing of limits: its address is
// passed by for 30 s, longer each time up to 10 min (slots.OffFor), and others are called. Where none
// answers and nothing is up one that is off is called before its time: when is up to the caller. A
// reset after the connection was there, at an address that takes others, is a refusal; so is a port that
// is closed while sessions are up there, as Sendmail closes its own at MaxDaemonChildren; and so is a
// connect that hangs there, for 2 s at least and four times as long as others of the site take, as
// at a Postfix whose processes are all busy: it is ended. One that hangs where nothing is up goes on,
// while another is made in its stead.
//
// Who joins a provider by the names of his hosts may let us in, and refuse the first message, or call it too
// fast. The caller knows who may be such a one, and tells of his refusals by Foreign where nothing was ever
// taken: the address waits, at first 0.6 s and at last 15 min, and the site learns nothing, for it has lost
// nothing. Nor does it learn from the time that connects take there.
//
// How late slots are freed is told by what connects met (votes.go): every connect that was
// let in or refused at once votes on the lag, unless it was refused when an earlier
// refusal may have had consequences, or by the host's place. That there is a lag at all
// takes three votes at least. Longer ones are ruled out where two votes more are against them than against
// another: without votes none is, also where no lag was found. Where much is spoken against every one and
// against none at all, refusals go by chance (one of several backends answers) or by what others hold,
// and nothing is ruled out: a place waits as long as it may. Where later messages are refused as one
// too many, the votes are forgotten: what a connect met is not judged there. Votes fade within minutes;
// the lag that they told stays until others speak against it.
//
// A refusal of a session's first message is one of its connect, which then was never let in; from
// the first such on a session of the site, at whatever address, counts as let in when a message of it was
// accepted, no longer when it came up. A connect that was begun before the last refusal at its
// address tells nothing new.
//
// Each other refusal, of a place that waits too, costs 1 of a credit that accepted messages earn, 0.01
// each; where nothing is up, and so nothing earned, 1 is left. A round of probes needs 1, so that refusals
// stay near one percent; while wary it is time that a round is paid with. An early replacement needs none:
// a few find the lag, and one held for too long costs every session. A round is of one probe, or of twice as many as the last one if that came up, at
// most a quarter of what is wanted and one. It comes up when all of it are proven, by a message that
// was accepted; where one was refused the slots that others won stay, and it counts as refused. No
// round begins while one is under way: one's refusal might be the other's. After growth or a probe
// was refused the next round also waits until a session has been proven, which shows that the refusal
// had no consequences (if that is soon, the round comes up to 3 s before its time), or for 30 s:
// where no session ends meanwhile, that long.
//
// Connects under way are bounded by a window, which grows by one with each that is let in
// and halves with each refusal. Growth has at most two, or an eighth of what is up, under
// way; an address that gave no answer, one. After a refused replacement one connect at a time
// is tried until one is let in: another vacant place at once, and then one after each of the waits
// above, by how many were refused in a row, at whatever place; refusals that come together count
// once. The place that is vacant longest comes first, and last one that was refused four times.
//
// The host MTA's own mail has places of the limit, or of a plateau, and may be what was refused
// for (host.go); several sources at one limit share it, the richest
// giving those that were refused the places of its sessions that end (sources.go); a Clamp bounds a site
// from outside for a time; what was learned is kept over restarts, and what is wanted fades,
// by half in an hour without mail (learned.go).
// History, which "millrace why" shows, tells each change of what is wanted, and each probe
// refused, with the reply or measurement behind it; what changes nothing (an early
// replacement, one whose place waits) is told as the last reply.
package elastic

import "time"

// Kind is a kind of evidence about a site's limits.
type Kind uint8

// The kinds of evidence.
const (
	Accepted    Kind = iota // a transaction ended with 2xx (or a per-recipient refusal: the server worked)
	Up                      // a connection came up: greeting and EHLO were answered 2xx
	Refused                 // a connection, or a transaction on it, was refused for being one too many
	Failed                  // a connection failed without a word (timeout, refused port, reset): a host's trouble
	RateRefused             // the server says: too fast
	Closed                  // an established session was closed by us or, politely, by the server
	Lost                    // an established session was lost: reset, timeout in a transaction
)

// Signal is one piece of evidence, as deliveries report it to the queue, which tells the
// Site.
type Signal struct {
	Kind  Kind
	Text  string    // the reply, to be shown as the cause; may be ""
	Began time.Time // when the connect (Up, Refused, Failed) or the transaction began
	How   string    // of a connect: how it failed, in words of ours alone, as in "answered 554"; "" is "no answer"

	Connected bool // of Failed: the connection was there, and broke without a word
	Wordless  bool // of Refused: a 421 that does not say what is too much
	Trouble   bool // of a transaction: all of its recipients were deferred, and not for reasons of their own
}

// Limits are the configured ceilings of a site.
type Limits struct {
	MaxSessions int     // at least 1
	MaxRate     float64 // messages per second, 0: none
	Why         string  // who says so, for the history; ""
}
