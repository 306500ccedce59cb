package control

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
)

// Filter selects queued recipients: those for which each field that is given
// holds. A filter without any selects nothing unless All is set; a listing
// alone takes it for everything.
type Filter struct {
	All       bool   `json:"all,omitempty"`
	ID        string `json:"id,omitempty"`
	Stream    string `json:"stream,omitempty"`
	Queue     string `json:"queue,omitempty"`
	Site      string `json:"site,omitempty"`
	Domain    string `json:"domain,omitempty"`     // of the recipient, in any case
	Sender    string `json:"sender,omitempty"`     // envelope sender, in any case; "<>" is the null sender
	Recipient string `json:"recipient,omitempty"`  // address, in any case
	User      string `json:"user,omitempty"`       // SASL user that submitted the mail
	Client    string `json:"client,omitempty"`     // address of the SMTP client that did
	State     string `json:"state,omitempty"`      // one of States
	OlderThan Age    `json:"older_than,omitempty"` // since the host MTA took it
	// Text is a part of the recipient's address, the sender or the host's queue id, or the
	// beginning of the message id, in any case.
	Text string `json:"text,omitempty"`
}

// States are what a recipient's state can be.
var States = [...]string{"active", "waiting", "deferred", "held", "stuck"}

// Empty reports whether the filter selects nothing.
func (f Filter) Empty() bool { return f == Filter{} }

// Age is a duration that JSON has as text: "36h0m0s".
type Age time.Duration

// MarshalText implements encoding.TextMarshaler.
func (a Age) MarshalText() ([]byte, error) { return []byte(time.Duration(a).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Age) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	*a = Age(d)
	return err
}

// values is the filter as the parameter of a GET, which has no body.
func (f Filter) values() url.Values {
	v := url.Values{}
	if !f.Empty() {
		b, _ := json.Marshal(f) // strings, a bool and a text: nothing that can fail
		v.Set("filter", string(b))
	}
	return v
}

// readFilter reads what values wrote.
func readFilter(v url.Values) (f Filter, err error) {
	text := v.Get("filter")
	if text == "" {
		return f, nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	return f, d.Decode(&f)
}

// String is the filter in words: "stream sale, domain example.com".
func (f Filter) String() string {
	var list []string
	add := func(what, name string) {
		if name != "" {
			list = append(list, what+" "+name)
		}
	}
	add("message", f.ID)
	add("stream", f.Stream)
	add("queue", f.Queue)
	add("site", f.Site)
	add("domain", f.Domain)
	add("sender", f.Sender)
	add("recipient", f.Recipient)
	add("user", f.User)
	add("client", f.Client)
	add("state", f.State)
	add("text", f.Text)
	if f.OlderThan != 0 {
		add("older than", time.Duration(f.OlderThan).String())
	}
	switch {
	case list != nil:
		return strings.Join(list, ", ")
	case f.All:
		return "everything"
	}
	return "nothing"
}
