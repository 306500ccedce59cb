package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// An address that has bounced for good is not tried again; its sender is told
// each time, by Postfix, and the event file has all of it, over a rotation by
// others.
func TestSuppressedAddressComesHomeAtOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "events.jsonl")
	r := enter(t, setup{
		keep: true, providers: strictAndFar(),
		millrace: lab.MillraceOptions{Set: map[string]string{
			"suppression.mode": `"drop"`, "suppression.after": "1", "events.file": strconv.Quote(file),
		}},
	})
	r.send("news@lab.test", []string{"a@strict.test"}, news("first"))
	if dsn := r.mailbox("news@lab.test", 1)[0]; !bytes.Contains(dsn.Content, []byte("550 5.1.1 No such user here")) {
		t.Errorf("the first report:\n%s", dsn.Content)
	}
	r.rest()
	// The events are written by the agent when it comes to it.
	r.until("both events", func() bool { return strings.Count(read(t, file), "\n") >= 2 })
	if err := os.Rename(file, file+".old"); err != nil {
		t.Fatal(err)
	}
	if err := r.Millrace.Agent.Reload(); err != nil {
		t.Fatal(err)
	}
	r.until("a new event file", func() bool { _, err := os.Stat(file); return err == nil })

	r.send("news@lab.test", []string{"a@strict.test", "b@far.test"}, news("second"))
	dsn := r.mailbox("news@lab.test", 2)[1].Content
	r.reportSays(dsn,
		"Final-Recipient: rfc822; a@strict.test\n", "Action: failed\n", "Status: 5.1.1\n", "suppressed: has bounced once", "X-Lab-ID: second\n",
	)
	if bytes.Contains(dsn, []byte("No such user here")) {
		t.Errorf("the receiver was asked again:\n%s", dsn)
	}
	r.until("the other recipient's copy", func() bool { return len(r.copies("second")) == 1 })
	r.rest()
	r.stop(r.Millrace.Agent)
	defer r.start(r.Millrace.Agent)
	for path, want := range map[string]map[string]string{
		file + ".old": {"a@strict.test": "bounced", "news@lab.test": "handed_back"},
		file:          {"a@strict.test": "suppressed", "b@far.test": "sent", "news@lab.test": "handed_back"},
	} {
		lines := strings.Split(strings.TrimSpace(read(t, path)), "\n")
		if len(lines) != len(want) {
			t.Errorf("%d events in %s, want %d:\n%s", len(lines), path, len(want), strings.Join(lines, "\n"))
		}
		for _, l := range lines {
			var e struct{ Event, Recipient string }
			if err := json.Unmarshal([]byte(l), &e); err != nil || want[e.Recipient] != e.Event {
				t.Errorf("%v in %s: %s", err, path, l)
			}
		}
	}
}
