// Package move gives queued mail to another node of a fleet, and takes in what other nodes give.
//
// # What it promises
//
// A recipient that is moved is sent by one node, whatever dies at which moment: kill -9 of
// either agent, or of both, loses nothing and repeats nothing. After a power loss the same
// holds, with one exception: a copy at the target whose verdict the kernel had not stored may be
// sent a second time, as any message of that spool may (package spool).
//
// # The way of a batch
//
// A transfer is what one millrace move gives to one node. It goes in batches, one after the
// other, each of some hundred messages. O is the origin, T the target:
//
//	O1  takes the recipients out of the queue
//	O2  writes the intent: node, transfer, batch, ids, ordinals, states; durable (moves/out-*)
//	O3  journals them as held, so that an agent from before this package keeps them too
//	O4  sends the batch: envelopes, states and contents
//	T1  writes the same list, durable (moves/in-*): what has come and is not confirmed
//	T2  appends the messages to its spool, each durable with its name of O in the envelope
//	T3  answers which it has, and by which ids. They are not in its queue.
//	O5  journals the recipients as moved, tells its listeners, and syncs the journal
//	O6  confirms: these messages of the batch are the target's
//	T4  journals the states that they had at O, and those of messages that O has not named as
//	    cancelled; syncs the journal
//	T5  removes its list, durable
//	T6  brings the messages into its queue, and answers
//	O7  goes on with O1; behind the last batch it removes the intent
//
// The target never sends what was not confirmed, and the origin confirms only what is moved in
// its journal, durable. The origin sends a message itself only if it was written down before
// (back, in the intent) that it will not be confirmed. So at every moment one of the two may
// send a message, or none.
//
// # What a crash does
//
//	origin dies                  what is there                      at the next start
//	before O2                    mail in the queue                  nothing was begun
//	O2 to O4                     intent; target has none or some    held; the batch is sent again, and
//	                                                                the target adds what it lacks
//	O4 to O5                     intent; target has the batch       held; sent again, the target answers
//	                                                                with what it has; O5
//	within O5                    some are moved in the journal      the rest is sent again, as before
//	O5 to O7                     all are moved                      O6 again: the target has released
//	                                                                them, or does now
//	target dies
//	before T1                    nothing                            the origin sends again
//	T1 to T3                     list; some messages, of which      they stay out of the queue; the
//	                             some are orphans                   origin sends again, the target adds
//	T3 to T5                     list, messages                     they stay out of the queue until O6
//	T5 to T6                     messages, with their states        they come into the queue by Load
//	after T6                     messages in the queue              the origin confirms again: there is
//	                                                                nothing to do
//
// While the target does not answer, the mail of the batch waits at the origin, and that of all
// others is delivered as ever. An admin may give the transfer up there: the mail is written down
// as back, and sent from the origin; the target drops its copies when it hears of it. Where the
// origin is gone for good the admin of the target may accept what has come: that is remembered
// with its ids until the origin, should it come back, has confirmed it.
//
// A request that hung in a socket does no harm: batches are numbered, and one that is not the
// open one is refused. A process that starts anew knows no closed batch, but its sockets are new,
// too; and what nobody confirms is not sent.
//
// # How its calls follow each other
//
//	m, err := move.New(options)       // reads open transfers, before the spool is loaded
//	states, keep := m.Arrived(...)    // for each message of Load and Follow
//	m.Loaded()                        // behind Load
//	go m.Run(ctx)                     // goes on with what is open
//	m.Use(node, peer)                 // how others are reached; without it nothing is moved
//	server.Handle(..., m.Handler(...))
//	run, err := m.Begin(...); run.Move(...); run.End()
//
// The terms are explained in agent/doc.go.
package move
