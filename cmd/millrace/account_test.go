package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// Of many addresses that are down some are shown, and all that have sessions.
func TestAccountOfManySilentAddressesIsShort(t *testing.T) {
	t.Parallel()
	a := control.Account{Addresses: []control.Address{{Address: "192.0.2.1:25", Sessions: 7, Held: 8}, {Address: "192.0.2.2:25", Sessions: 1, Held: 1, Down: true}}}
	for i := range 66 {
		a.Addresses = append(a.Addresses, control.Address{Address: fmt.Sprintf("192.0.2.%d:25", 100+i), Held: 1, Down: true})
	}
	var b strings.Builder
	printAccount(&b, &a)
	_, rows, _ := strings.Cut(b.String(), "ADDRESS\n")
	if lines := strings.Split(rows, "\n"); len(lines) != 10 ||
		!strings.Contains(lines[0], "192.0.2.1:25") || !strings.Contains(lines[1], "192.0.2.2:25") || lines[8] != strings.Repeat(" ", 22)+"and 60 more that are down" {
		t.Errorf("%s", b.String())
	}
}

// What is paused is never told as nothing that waits.
func TestAccountOfPausedMailNamesThePauses(t *testing.T) {
	t.Parallel()
	by := []control.Pause{{Filter: control.Filter{Domain: "two.test"}, Reason: "wrong price"}, {Filter: control.Filter{All: true}}}
	for _, x := range []struct {
		site control.Site
		want string
	}{
		{control.Site{}, "held back  no: nothing waits\nwaiting    no recipients\n"},
		{control.Site{Paused: 150, PausedBy: by}, "held back  paused: 150 recipients, by a pause of domain two.test (wrong price), of everything\nwaiting    no recipients, and 150 that are paused\n"},
		{control.Site{Waiting: 3, Paused: 1, PausedBy: by[1:], HeldBack: &control.HeldBack{Reason: "dead", How: "no answer"}}, "held back  dead: no answer; paused: 1 recipient, by a pause of everything\nwaiting    3 recipients, and 1 that are paused\n"},
	} {
		var b strings.Builder
		printAccount(&b, &control.Account{Site: x.site})
		if got, _, _ := strings.Cut(b.String(), "slots"); got != x.want {
			t.Errorf("%q, not %q", got, x.want)
		}
	}
	row := siteRow(&control.Site{Name: "a", Paused: 150, PausedBy: by[:1], Cause: "start"}, nil)
	if row.cause != "paused: 150 recipients, by a pause of domain two.test (wrong price)" || row.backlog != 150 {
		t.Errorf("in top: %+v", row)
	}
}

// Of an address that failed and was not called again, that is told: it may be well by now.
func TestAccountTellsWhoWasNotCalledSinceItFailed(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	a := control.Account{Site: control.Site{Waiting: 1}, Addresses: []control.Address{{Address: "192.0.2.1:25", Held: 1},
		{Address: "192.0.2.2:25", Failing: &control.Failing{Times: 1, Since: now.Add(-2 * time.Minute), Until: now.Add(-90 * time.Second), How: "answered 421"}}}}
	var b strings.Builder
	printAccount(&b, &a)
	want := "192.0.2.2:25  down since " + now.Add(-2*time.Minute).Format(time.DateTime) + ", not called again, due since " + now.Add(-90*time.Second).Format(time.DateTime) + ": answered 421\n"
	if text := b.String(); !strings.Contains(text, want) {
		t.Errorf("%s\nwant %q", text, want)
	}
}

// Where all addresses are down one time is told: that of the next try. Another address would go
// before those that are passed by.
func TestAccountOfADeadSiteTellsOneTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := control.Account{Site: control.Site{Waiting: 1, HeldBack: &control.HeldBack{Reason: "dead", How: "refused the connection", Next: now.Add(time.Minute)}}, Addresses: []control.Address{
		{Address: "192.0.2.1:25", Down: true, Failing: &control.Failing{Times: 3, Until: now.Add(2 * time.Minute), How: "refused the connection"}}}}
	var b strings.Builder
	printAccount(&b, &a)
	if text := b.String(); strings.Contains(text, "passed by") || !strings.Contains(text, "192.0.2.1:25  down, called next: refused") || !strings.Contains(text, "tried again at") {
		t.Error(text)
	}
	a.Addresses = append(a.Addresses, control.Address{Address: "192.0.2.2:25"})
	b.Reset()
	if printAccount(&b, &a); !strings.Contains(b.String(), "192.0.2.1:25  down, passed by until ") {
		t.Error(b.String())
	}
}
