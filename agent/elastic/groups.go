package elastic

import (
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// growth is the doubling while it pays, until the first refusal.
type growth struct {
	open    int       // connects under way that are for it
	ref     level     // what was measured with fewer sessions
	flatAt  time.Time // when more sessions were seen to bring nothing
	flatFor time.Duration
}

// late is what is known of how late the receiver frees a slot.
type late struct {
	lag     time.Duration // so long after its end a slot is free
	floor   time.Duration // so soon after its end one was not; 0: none was refused
	floorAt time.Time
	sure    bool        // it is learned; else one connect at a time finds it out
	early   *slots.Slot // the one that finds out whether less would do
	passed  int         // replacements accepted while it is not sure
	tries   int         // replacements refused while it is not sure
}

// probing is the search for more slots than were accepted before, in rounds.
type probing struct {
	open    int // probes under way
	round   int // that may yet be begun
	began   time.Time
	refused bool // one of the round was
	sound   bool // no session has ended whose place one of them may have got
	trial   int  // slots won, as long as neither that nor replacements show that they are ours
	proofs  int  // replacements accepted since
	streak  int  // rounds that came up, one after the other
	at      time.Time
	gap     time.Duration
	tight   bool // one more than is wanted was refused, and nothing was given up since
}

// refusals are those of what was held before.
type refusals struct {
	last     time.Time // of any kind
	doubt    bool      // no new slot was proven since, so it may have had consequences
	atMail   bool      // sessions are let in and refused at their first MAIL
	row      int       // none came up since the first of them
	since    time.Time // the first of the row
	given    int       // places given up since probes last won any
	shut     int       // times in a row that no slot was free for slots.LagMax
	closed   time.Time // the last of these
	opens    time.Time // no connect before
	regain   int       // slots to come back to after a shut door
	regained bool      // that was done
	punish   time.Time // refusals are taken to be punished until then
}
