package agent

import (
	"io"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

// Only what a connection says about a message counts against it.
func TestWarmConnectionThatEndsCountsNoTry(t *testing.T) {
	t.Parallel()
	goodbye := smtp.Reply{Code: 421, Enhanced: "4.4.2", Text: "closing"}
	for _, test := range []struct {
		name    string
		result  smtp.RcptResult
		err     error
		reuse   int
		untried bool
	}{
		{"lost at MAIL", smtp.RcptResult{Stage: smtp.StageMail}, &smtp.Error{Stage: smtp.StageMail, Err: io.EOF}, 2, true},
		{"lost at MAIL of the first", smtp.RcptResult{Stage: smtp.StageMail}, &smtp.Error{Stage: smtp.StageMail, Err: io.EOF}, 1, false},
		{"421 to RSET", smtp.RcptResult{Stage: smtp.StageReset}, &smtp.Error{Stage: smtp.StageReset, Reply: goodbye}, 2, true},
		{"421 to MAIL", smtp.RcptResult{Fate: smtp.Refused, Stage: smtp.StageMail, Reply: goodbye}, &smtp.Error{Stage: smtp.StageMail, Reply: goodbye}, 2, true},
		{"421 to RCPT", smtp.RcptResult{Fate: smtp.Refused, Stage: smtp.StageRcpt, Reply: goodbye}, &smtp.Error{Stage: smtp.StageRcpt, Reply: goodbye}, 2, false},
		{"lost in the content", smtp.RcptResult{Stage: smtp.StageContent}, &smtp.Error{Stage: smtp.StageContent, Err: io.EOF}, 2, false},
		{"in doubt", smtp.RcptResult{Fate: smtp.InDoubt, Stage: smtp.StageMail}, &smtp.Error{Stage: smtp.StageMail, Err: io.EOF}, 2, false},
	} {
		a := &Agent{}
		a.now.Store(&settings{})
		r := settlement{agent: a, envelope: &spool.Envelope{Recipients: []spool.Recipient{{Address: "a@far.test"}}}, route: queue.Route{Queue: &config.Queue{}}, reuse: test.reuse}
		r.add(queue.Item{}, test.result, test.err)
		if got := r.results[0].untried; got != test.untried {
			t.Errorf("%s: untried: %v", test.name, got)
		}
	}
}
