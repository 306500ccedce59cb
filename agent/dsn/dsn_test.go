package dsn

import (
	"testing"

	"github.com/millrace/millrace/agent/spool"
)

func TestOwedAsNotifySays(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args string // of RCPT; "" is none
		owed string // f, d, s for failed, delayed, and the three successes
	}{
		{"", "f"},
		{"NOTIFY=NEVER", ""},
		{"notify=never", ""},
		{"NOTIFY=FAILURE", "f"},
		{"NOTIFY=DELAY", "d"},
		{"NOTIFY=SUCCESS", "s"},
		{"NOTIFY=Success,Failure,Delay", "fds"},
		{"NOTIFY=SUCCESS,DELAY", "ds"},
		{"NOTIFY=NEVER,FAILURE", "f"}, // against the RFC: told rather than lost
		{"NOTIFY=", "f"},
		{"NOTIFY=ALWAYS", "f"},
		{"ORCPT=rfc822;a@example.com", "f"},
	}
	for _, tt := range tests {
		r := spool.Recipient{Address: "b@example.com"}
		if tt.args != "" {
			r.Args = []string{"ORCPT=rfc822;x@example.com", tt.args}
		}
		e := &spool.Envelope{Sender: "a@example.com"}
		var got string
		if Owed(e, r, Failed) {
			got += "f"
		}
		if Owed(e, r, Delayed) {
			got += "d"
		}
		if Owed(e, r, Delivered) && Owed(e, r, Relayed) && Owed(e, r, Expanded) {
			got += "s"
		}
		if got != tt.owed {
			t.Errorf("%q: owed %q, want %q", tt.args, got, tt.owed)
		}
		for name, e := range map[string]*spool.Envelope{"null sender": {}, "report": {Sender: "a@example.com", Origin: spool.Report}} {
			for _, a := range []Action{Failed, Delayed, Delivered, Relayed, Expanded} {
				if Owed(e, r, a) {
					t.Errorf("%q: %s owed to a %s", tt.args, a, name)
				}
			}
		}
	}
}

func TestWantsFull(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]bool{"RET=FULL": true, "ret=full": true, "RET=HDRS": false, "SIZE=10": false, "RET": false} {
		if got := WantsFull(&spool.Envelope{Args: []string{"BODY=8BITMIME", arg}}); got != want {
			t.Errorf("%s: %v", arg, got)
		}
	}
	if WantsFull(&spool.Envelope{}) {
		t.Error("without arguments")
	}
}

func TestXtext(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "plain": "plain", "a+2Bb": "a+b", "a+2bb": "a+b", "+3D+3D": "==", "+": "+", "a+2": "a+2", "a+zz": "a+zz", "a+0D+0Ab": "a\r\nb",
	} {
		if got := xtext(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestOriginalRecipient(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{ // in a report of ASCII
		"rfc822;user+2Bx@example.com":  "rfc822;user+x@example.com",
		"RFC822;a@example.com":         "RFC822;a@example.com",
		"utf-8;\\x{FC}+40@example.com": "utf-8;\\x{FC}+40@example.com",
		"utf-8;ü@example.com":          "utf-8;\\x{FC}@example.com",
		"x400;+0D+0AAction: delivered": "x400;Action: delivered",
		"a@example.com":                "",
		"rf c;a@example.com":           "",
		";a@example.com":               "",
		"rfc822;":                      "",
		"rfc822;+00+FF":                "rfc822;??",
	} {
		if got := originalRecipient(in, false); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{ // in a global one
		`utf-8;\x{FC}\x{2B}40@example.com`: "utf-8;ü+40@example.com",
		`utf-8;ü\x{A}\x{D800}@example.com`: `utf-8;ü\x{A}\x{D800}@example.com`,
		"rfc822;user+2Bx@example.com":      "rfc822;user+x@example.com",
	} {
		if got := originalRecipient(in, true); got != want {
			t.Errorf("global: %q: %q, want %q", in, got, want)
		}
	}
}
