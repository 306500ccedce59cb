package outcomes

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/spool"
)

// Who took mail is known from the databases, however recipients are kept, and from what is
// sent; who was only tried is not, nor anybody who is to be forgotten.
func TestWhoTookMailIsKnown(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]Mode{"plain": Plain, "hashed": Hashed, "none": None} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := week
			p.Recipients = mode
			b := begin(t, t.TempDir(), p)
			tried := sent(noon, 3000)
			tried.Event = "deferred"
			yesterday := noon.Add(-24 * time.Hour)
			b.put(yesterday, 0, 2500)
			b.put(noon, 2500, 2600)
			b.Add(tried)
			b.fill()
			if b.Took(sent(noon, 1).Recipient) {
				t.Error("known before anything was read")
			}
			b.readTook(context.Background())
			now := &event.Delivery{Status: event.Sent, Envelope: &spool.Envelope{Recipients: []spool.Recipient{{Address: "Late@example.com"}}}}
			b.Delivery(now)
			for address, want := range map[string]bool{
				sent(noon, 0).Recipient: true, sent(noon, 2499).Recipient: true, "USER2550@example0.com": true, "late@example.com": true,
				tried.Recipient: false, "nobody@example.com": false,
			} {
				if got := b.Took(address); got != (want && mode != None) {
					t.Errorf("%s: %v", address, got)
				}
			}
			if _, err := b.Forget(t.Context(), "late@example.com"); err != nil || b.Took("late@example.com") {
				t.Errorf("known after it was forgotten (%v)", err)
			}
		})
	}
}

// Of a file that is damaged nobody is known, and of the others all are.
func TestWhoTookMailInADamagedFile(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	yesterday := noon.Add(-24 * time.Hour)
	b.put(yesterday, 0, 100)
	b.put(noon, 100, 200)
	b.closeFiles()
	if err := os.WriteFile(b.dayPath(noon), []byte("no database, not at all, but longer than the header of one is, which has a hundred octets, or so it is said"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Took("")
	b.readTook(context.Background())
	if !b.Took(sent(noon, 50).Recipient) || b.Took(sent(noon, 150).Recipient) {
		t.Errorf("of the damaged file %v, of the other %v", b.Took(sent(noon, 150).Recipient), b.Took(sent(noon, 50).Recipient))
	}
}

// Memory is bounded: the newest are known.
func TestWhoTookMailIsBounded(t *testing.T) {
	t.Parallel()
	var x took
	for i := range 5 * tookMost / 2 {
		x.add(uint64(i), true)
	}
	_, old := x.old[tookMost]
	if len(x.young)+len(x.old) > 2*tookMost || !old {
		t.Errorf("%d and %d are known", len(x.young), len(x.old))
	}
}
