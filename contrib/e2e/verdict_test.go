//go:build !race

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// Each verdict on Postfix: what is logged on both sides, and what becomes of the
// copies that Postfix makes itself (bcc maps). They outlive a deletion of all
// recipients and are lost with a discarded message. A message that stays in part
// is never discarded, mail of sendmail(1) is never deleted from.
func TestVerdictsAndBccCopies(t *testing.T) {
	t.Parallel()
	for setting, whole := range map[string]string{"auto": "delrcpt", "delrcpt": "delrcpt", "discard": "discard"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			r := enter(t, setup{
				postfix:  lab.PostfixOptions{NonSMTPDMilter: lab.RelativeSocket, Extra: map[string]string{"in_flow_delay": "0"}},
				millrace: lab.MillraceOptions{Set: map[string]string{"milter.verdict": `"` + setting + `"`}},
			})
			r.eachShape("alone", whole)
			want := []string{
				"whole-alone a@far.test ours", "whole-alone b@far.example ours",
				"part-alone a@far.test ours", "part-alone b@far.example ours", "command-alone a@far.test ours",
			}
			r.exactly(want...)

			for param, value := range map[string]string{
				"always_bcc":         "archive@far.example",
				"recipient_bcc_maps": "inline:{ a@far.test=watcher@lab.test }",
			} {
				if err := r.Postfix.Set(r.ctx, param, value); err != nil {
					t.Fatal(err)
				}
			}
			r.restartPostfix()
			r.eachShape("bcc", whole)
			want = append(want,
				"whole-bcc a@far.test ours", "whole-bcc b@far.example ours",
				"part-bcc a@far.test ours", "part-bcc b@far.example ours", "command-bcc a@far.test ours",
				"part-bcc archive@far.example postfix",
			)
			watched := 1
			if whole == "delrcpt" {
				watched++
				want = append(want, "whole-bcc archive@far.example postfix")
			}
			if got := len(r.mailbox("watcher@lab.test", watched)); got != watched {
				t.Errorf("%d copies for the watcher, want %d", got, watched)
			}
			r.exactly(want...)
			if got := len(r.mailbox("user@lab.test", 2)); got != 2 {
				t.Errorf("%d local copies, want 2", got)
			}
			if got := len(r.mailbox("watcher@lab.test", watched)); got != watched {
				t.Errorf("%d copies for the watcher, want %d", got, watched)
			}
		})
	}
}

// eachShape sends a message that is diverted whole, one that is in part, and one
// of sendmail(1), and checks what both logs say of it.
func (r *room) eachShape(phase, whole string) {
	r.t.Helper()
	p := r.local()
	p.says("250", "EHLO client.test")
	says := func(line, verdict string, nrcpt, diverted int) {
		r.t.Helper()
		if want := fmt.Sprintf("nrcpt=%d diverted=%d verdict=%s ", nrcpt, diverted, verdict); !strings.Contains(line, want) || field(line, "id") == "" {
			r.t.Errorf("the milter's line has no %q or no id: %s", want, line)
		}
		// Postfix says that it discards; of deleted recipients it says nothing.
		texts := map[string][]string{"discard": {"milter-discard: END-OF-MESSAGE", "milter triggers DISCARD action"}, "delrcpt": {"removed"}}[verdict]
		qid := field(line, "qid")
		r.until(fmt.Sprintf("Postfix's line of %s with %q", qid, texts), func() bool {
			lines, err := r.Postfix.LogLines(append(texts, " "+qid+": ")...)
			if err != nil {
				r.t.Fatal(err)
			}
			return len(lines) == 1
		})
		not := map[string]string{"discard": "(queue active)", "delrcpt": "milter-discard"}[verdict]
		for _, not := range []string{not, "to=<a@far.test>, ", "to=<b@far.example>, "} {
			if lines, err := r.Postfix.LogLines(" "+qid+": ", not); err != nil || len(lines) > 0 {
				r.t.Errorf("Postfix says %q (%v)", lines, err)
			}
		}
	}
	qid := p.sends("<news@lab.test>", []string{"<a@far.test>", "<b@far.example>"}, news("whole-"+phase))
	says(r.verdict(qid), whole, 2, 2)
	qid = p.sends("<news@lab.test>", []string{"<a@far.test>", "<user@lab.test>", "<b@far.example>"}, news("part-"+phase))
	says(r.verdict(qid), "delrcpt", 3, 2)
	p.quits()

	id := "command-" + phase
	if err := r.Postfix.Sendmail(r.ctx, id+"@lab.test", []string{"a@far.test"}, []byte(news(id))); err != nil {
		r.t.Fatal(err)
	}
	says(r.logLine(r.Millrace.Milter, "verdict", "from="+id+"@lab.test"), "discard", 1, 1)
}
