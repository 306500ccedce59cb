package config

import (
	"fmt"
	"time"
)

// SuppressionMode says what happens to addresses that bounce for good.
type SuppressionMode string

// The modes of suppression.
const (
	SuppressOff    SuppressionMode = "off"    // nothing is kept of them
	SuppressAdvise SuppressionMode = "advise" // counted and listed; mail is sent all the same
	SuppressDrop   SuppressionMode = "drop"   // they are not tried again
)

// Suppression configures the list of addresses that have bounced for good too
// often. Package agent/suppress describes it.
type Suppression struct {
	// Mode is "off", "advise" (count and list them, send all the same) or "drop"
	// (do not try them again). Default: "advise".
	Mode SuppressionMode `toml:"mode"`
	// After is how many hard bounces in a row suppress an address, 1 to 100: user
	// unknown, host unknown, or moved, and nothing else. Default: 3.
	After int `toml:"after"`
	// Within is the most time between one bounce and the next; later ones count
	// anew. Default: "30d".
	Within time.Duration `toml:"within"`
	// Expire is how long after its last bounce an address stays suppressed. What
	// an admin added stays until an admin removes it. Default: "180d".
	Expire time.Duration `toml:"expire"`
	// Scope is "stream" (an address is suppressed in the campaign or list whose
	// mail bounced) or "global" (in all). Default: "stream".
	Scope SuppressionScope `toml:"scope"`
	// Notify says whether the sender gets a bounce, marked so, for each message
	// that is not sent to a suppressed address. Default: true.
	Notify bool `toml:"notify"`
	// Streams have a mode of their own.
	Streams []SuppressionStream `toml:"stream"`
}

// SuppressionStream is one [[suppression.stream]].
type SuppressionStream struct {
	// Name is the stream, as millrace streams lists it; required, and each once.
	Name string `toml:"name"`
	// Mode is "off", "advise" or "drop", in place of [suppression] mode; required.
	Mode SuppressionMode `toml:"mode"`
}

func (l *loader) checkSuppression(s *Suppression) {
	if n := s.After; n > 100 {
		l.fail("suppression.after", remedy(fmt.Sprintf("after: %d bounces in a row", n), `write 1 to 100, or mode = "advise" to suppress nobody`))
	}
	names := map[string]Notice{}
	for i, x := range s.Streams {
		path := fmt.Sprintf("suppression.stream[%d]", i)
		first, twice := names[x.Name]
		switch {
		case l.bad[path+".name"] || l.bad[path+".mode"]:
		case x.Name == "" || x.Mode == "":
			l.fail(path, remedy("a stream needs a name and a mode", `write name = "news.example.com" and mode = "drop"`))
		case twice:
			l.fail(path+".name", remedy(fmt.Sprintf("name: stream %q has a mode already, at %s:%d", x.Name, first.File, first.Line), "keep one of the two"))
		default:
			names[x.Name] = l.place(path + ".name")
		}
	}
}

// SuppressionScope says for which mail an address is suppressed.
type SuppressionScope string

// The scopes of suppression.
const (
	SuppressStream SuppressionScope = "stream"
	SuppressGlobal SuppressionScope = "global"
)
