package milter

import (
	"context"
	"log/slog"
	"maps"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/milter/classify"
)

// Reports is where delivery reports and complaints go that are about mail of ours: a
// feedback.Box.
type Reports interface {
	// Put keeps a message for the agent, about a copy that has a number; gone is how many
	// older ones went for it.
	Put(message []byte, about uint64, now time.Time) (gone int, err error)
}

const (
	// maxGathering bounds how many reports are gathered at the same time, and reportsWaiting
	// how many wait to be read: 24 MiB of memory in all. What is beyond passes unread.
	maxGathering   = 64
	reportsWaiting = 32
	// reportRate and reportBurst bound how many are asked for, in a second and at once, of
	// reportUnit octets: a larger one counts as so many of them, though never as more than
	// reportBurst. To have Postfix send the body of 8 KB and to read it costs up to a sixth of
	// what Postfix spends on the message, of 256 KB in short lines more than a third; so of
	// 300 of 8 KB or 45 of 256 KB in a second, a flood as two cores take it, one or two
	// hundredths (contrib/bench, scenario reports). It is two million reports a day.
	reportRate  = 25
	reportBurst = 500
	reportUnit  = 8 << 10
)

// reports reads delivery reports and feedback reports that pass through the host MTA.
//
// The header tells which messages may be one (feedback.Wanted); only of these is the body
// asked for, and the verdict on them is the one that they would have had without it, given
// before anything of them is looked at. Then, in a goroutine that no session waits for, the
// message is read: whether one of the Received fields that came back carries our mark. Only
// then is it put into the box, synced; so what anybody sends costs no disk, and what is in
// the box is about mail that was ours.
type reports struct {
	box    Reports
	room   func() error
	log    *slog.Logger
	places chan struct{}
	read   chan report
	full   throttle

	mu     sync.Mutex
	counts map[string]uint64
	budget float64   // how many may be asked for; below 0 after a large one
	at     time.Time // of budget
}

// report is a message to be read, with the keys of its time.
type report struct {
	message []byte
	keys    *trace.Keys
}

// What became of messages that may be reports: the words of Counts.Reports.
const (
	reportKept       = "kept"       // for the agent: a mark of ours came back
	reportUnverified = "unverified" // a report, and not about mail that is known to be ours
	reportNone       = "none"       // no report, though its header said so
	reportUnread     = "unread"     // too many at a time
	reportLost       = "lost"       // could not be kept, or gave way to newer ones
)

func newReports(box Reports, room func() error, log *slog.Logger) *reports {
	return &reports{
		box: box, room: room, log: log, places: make(chan struct{}, maxGathering), read: make(chan report, reportsWaiting),
		counts: make(map[string]uint64), budget: reportBurst,
	}
}

// allowed takes one of the budget, if there is one.
func (r *reports) allowed(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.at.IsZero() {
		r.budget = min(r.budget+max(now.Sub(r.at).Seconds(), 0)*reportRate, reportBurst)
	}
	r.at = now
	if r.budget < 1 {
		return false
	}
	r.budget--
	return true
}

// charge takes for the octets of one beyond the first reportUnit.
func (r *reports) charge(octets int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.budget = max(r.budget-max(float64(octets)/reportUnit-1, 0), -reportBurst)
}

func (r *reports) count(what string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what] += uint64(n)
}

func (r *reports) counted() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// gather begins with a message, if it may be a report and there is a place for it.
func (r *reports) gather(fields []classify.Field, now time.Time) *gathering {
	get := func(name string) string {
		for i := range fields {
			if len(fields[i].Name) == len(name) && strings.EqualFold(fields[i].Name, name) {
				return strings.ReplaceAll(fields[i].Value, "\n", "")
			}
		}
		return ""
	}
	if !feedback.Wanted(get) {
		return nil
	}
	if !r.allowed(now) {
		r.count(reportUnread, 1)
		return nil
	}
	select {
	case r.places <- struct{}{}:
	default:
		r.count(reportUnread, 1)
		return nil
	}
	g := &gathering{reports: r}
	for _, f := range fields {
		g.write([]byte(f.Name + ":" + strings.ReplaceAll(f.Value, "\n", "\r\n") + "\r\n"))
	}
	g.write([]byte("\r\n"))
	return g
}

// gathering is a message whose body comes.
type gathering struct {
	reports *reports
	held    []byte
	octets  int // of all, held or not
}

// write takes a piece, and keeps of all no more than feedback.MaxSize.
func (g *gathering) write(b []byte) {
	g.octets += len(b)
	g.held = append(g.held, b[:min(len(b), feedback.MaxSize-len(g.held))]...)
}

// end hands the message over to be read.
func (g *gathering) end(keys *trace.Keys) {
	select {
	case g.reports.read <- report{g.held, keys}:
	default:
		g.reports.count(reportUnread, 1)
	}
	g.drop()
}

// drop gives the place back. Only now is it known how large the message is.
func (g *gathering) drop() {
	g.reports.charge(g.octets)
	<-g.reports.places
}

// run reads until ctx ends, and then what waits.
func (r *reports) run(ctx context.Context) {
	for {
		select {
		case m := <-r.read:
			r.take(m)
		case <-ctx.Done():
			for {
				select {
				case m := <-r.read:
					r.take(m)
				default:
					return
				}
			}
		}
	}
}

// take reads one message, and keeps it if our mark came back. A panic over one is logged
// here: whoever sends it must not end the milter, over which all mail goes.
func (r *reports) take(m report) {
	defer func() {
		if v := recover(); v != nil {
			r.count(reportNone, 1)
			r.log.Error("panic over a report, leaving it unread", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	x, err := feedback.Parse(m.message)
	if err != nil {
		r.count(reportNone, 1)
		return
	}
	var mark trace.Mark
	ours := false
	for _, v := range x.Received {
		if mark, ours = m.keys.Read(v); ours {
			break
		}
	}
	if !ours {
		r.count(reportUnverified, 1)
		return
	}
	if err = r.room(); err == nil {
		var gone int
		gone, err = r.box.Put(m.message, mark.Copy(), time.Now())
		r.count(reportLost, gone)
	}
	if err != nil {
		r.count(reportLost, 1)
		if r.full.pass(time.Now()) {
			r.log.Warn("a report on mail of ours is not kept for the agent", "id", mark.ID.String(), "err", err)
		}
		return
	}
	r.count(reportKept, 1)
}
