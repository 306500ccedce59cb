package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

// Only what a connection says about a message counts against it.
func TestWarmConnectionThatEndsCountsNoTry(t *testing.T) {
	t.Parallel()
	goodbye := smtp.Reply{Code: 421, Enhanced: "4.4.2", Text: "closing"}
	slower := smtp.Reply{Code: 421, Enhanced: "4.7.0", Text: "Message rate exceeded, slow down"}
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
		{"421 to MAIL for the rate", smtp.RcptResult{Fate: smtp.Refused, Stage: smtp.StageMail, Reply: slower}, &smtp.Error{Stage: smtp.StageMail, Reply: slower}, 2, false},
		{"421 to RCPT", smtp.RcptResult{Fate: smtp.Refused, Stage: smtp.StageRcpt, Reply: goodbye}, &smtp.Error{Stage: smtp.StageRcpt, Reply: goodbye}, 2, false},
		{"lost in the content", smtp.RcptResult{Stage: smtp.StageContent}, &smtp.Error{Stage: smtp.StageContent, Err: io.EOF}, 2, false},
		{"in doubt", smtp.RcptResult{Fate: smtp.InDoubt, Stage: smtp.StageMail}, &smtp.Error{Stage: smtp.StageMail, Err: io.EOF}, 2, false},
	} {
		d := testDeliverer(t, &settings.Settings{Config: &config.Config{}}, nil)
		r := settle.Settlement{Envelope: &spool.Envelope{Recipients: []spool.Recipient{{Address: "a@far.test"}}}, Route: queue.Route{Queue: &config.Queue{}}, Reuse: test.reuse}
		d.read(&settings.Settings{Config: &config.Config{}}, &r, queue.Item{}, test.result, test.err)
		if got := r.Results[0].Untried; got != test.untried {
			t.Errorf("%s: untried: %v", test.name, got)
		}
	}
}

// TestWhatWeCutShortEndsNoMail decides on transactions that ended for reasons of ours,
// of a message that is too old.
func TestWhatWeCutShortEndsNoMail(t *testing.T) {
	t.Parallel()
	general := &config.Queue{Name: "general", Retry: []time.Duration{100 * time.Millisecond}, Expire: 120 * time.Hour}
	d := testDeliverer(t, &settings.Settings{Config: &config.Config{}}, nil)
	decide := func(res smtp.RcptResult, err error) outcome.Action {
		r := settle.Settlement{
			Envelope: &spool.Envelope{Sender: "n@news.test", Recipients: []spool.Recipient{{Address: "a@far.test"}}},
			Job:      queue.Job{Born: time.Now().Add(-200 * time.Hour)}, Route: queue.Route{Queue: general}, Reuse: 1,
		}
		d.read(&settings.Settings{Config: &config.Config{}}, &r, queue.Item{}, res, err)
		return r.Results[0].Decision.Action
	}
	doubt := smtp.RcptResult{Fate: smtp.InDoubt, Stage: smtp.StageDot}
	lost := smtp.RcptResult{Fate: smtp.NotOffered, Stage: smtp.StageContent}
	broken := &smtp.Error{Stage: smtp.StageContent, Err: os.ErrDeadlineExceeded}
	for _, res := range []smtp.RcptResult{doubt, lost} {
		if got := decide(res, broken); got != outcome.Bounce {
			t.Errorf("a connection that broke: action %v", got)
		}
	}
	unread := &smtp.Error{Stage: smtp.StageContent, Err: fmt.Errorf("%w: %w", smtp.ErrContent, syscall.EIO)}
	if got := decide(lost, unread); got != outcome.Retry {
		t.Errorf("content that could not be read: action %v", got)
	}
	cut := &smtp.Error{Stage: smtp.StageContent, Err: context.Canceled}
	for _, res := range []smtp.RcptResult{doubt, lost} {
		if got := decide(res, cut); got != outcome.Retry {
			t.Errorf("a transaction cut by a stop: action %v", got)
		}
	}
}

// A refusal is told with the command that it answered, as by smtp(8): DATA itself, or what
// ended the content.
func TestReasonNamesTheCommandThatWasRefused(t *testing.T) {
	t.Parallel()
	d := testDeliverer(t, &settings.Settings{Config: &config.Config{}}, nil)
	no := smtp.Reply{Code: 554, Enhanced: "5.7.1", Text: "no"}
	for stage, want := range map[smtp.Stage]string{
		smtp.StageMail: "MAIL FROM command", smtp.StageRcpt: "RCPT TO command", smtp.StageData: "DATA command", smtp.StageDot: "end of DATA command",
	} {
		for name, x := range map[string]struct {
			result smtp.RcptResult
			err    error
		}{
			"refused":            {smtp.RcptResult{Fate: smtp.Refused, Stage: stage, Reply: no}, nil},
			"ended by the reply": {smtp.RcptResult{Fate: smtp.NotOffered, Stage: stage}, &smtp.Error{Stage: stage, Reply: no}},
		} {
			r := settle.Settlement{Envelope: &spool.Envelope{Recipients: []spool.Recipient{{Address: "a@far.test"}}}, Route: queue.Route{Queue: &config.Queue{}, Handback: true}, Reuse: 1}
			d.read(&settings.Settings{Config: &config.Config{}}, &r, queue.Item{}, x.result, x.err)
			if got := r.Results[0].Decision.Reason; !strings.HasSuffix(got, "said: 554 5.7.1 no (in reply to "+want+")") {
				t.Errorf("stage %v, %s: %q, want %s", stage, name, got, want)
			}
		}
	}
}

func TestWantOfDescriptorsTellsNothingOfAHost(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		&connectError{"connect", &smtp.Error{Err: os.NewSyscallError("socket", syscall.EMFILE)}}:        true,
		&connectError{"connect", &smtp.Error{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}: false,
		errors.New("no route"): false,
	} {
		if got := settings.Ours(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
