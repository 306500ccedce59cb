// Package lease divides limits among the nodes of a fleet, so that the sum of what they may
// use never exceeds a limit, whatever is lost, late or cut off.
//
// Open makes a Member. Its owner says what it could use (Want), and at Due takes a Call,
// has the store execute it (Script with Call.Key and Call.Args; ParseReply) and gives what came
// of it to Done, from one goroutine, in this order: Want, Call, Done. Sessions, Rate and Bound tell at any moment what may be used. The
// first node of a new fleet must be told so (Member.Found), unless all have Options.Nodes.
package lease
