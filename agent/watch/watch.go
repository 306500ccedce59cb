// Package watch observes the agent and the host MTA, and serves what it finds over HTTP:
// /healthz, /readyz, /metrics, the status page.
//
// A Watch owns what was found last: settings of Postfix that diverted mail passes by
// (host.go), whether the MTA runs (running.go), whether mail can go back to it and how
// long its queue is (handback.go), the milter's last report (state.go), whether the spool
// has been read. Nothing here decides about a message; two findings hold mail up: a
// stopped MTA, by a pause, and a full queue of the MTA, by a clamp of what goes there.
//
// PollRunning is called before mail is read, so that nothing is sent while the MTA is
// stopped; the loops run until the last session has ended. Reloaded wakes those that
// depend on the configuration.
//
// What is served to everybody names no mail address (public.go). The terms are explained
// in agent/doc.go.
package watch

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/millrace/millrace/agent/assess"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcomes"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/warmup"
	"github.com/millrace/millrace/agent/web"
	"github.com/millrace/millrace/agent/webhook"
)

// Options are what a Watch works with. None may be missing.
type Options struct {
	Log      *slog.Logger
	Version  string
	Settings *settings.Source
	Store    *spool.Store
	Queue    *queue.Queue
	Orders   *orders.Orders
	Settler  *settle.Settler
	Events   *event.File
	Outcomes *outcomes.Outcomes
	Webhooks *webhook.Sender
	Fleet    *fleet.Fleet // nil: there is none
	Quotas   *quotas.Book
	Warmup   *warmup.Warmup
	History  *history.History
	Metrics  *metrics.Metrics
	Assessor *assess.Assessor
	DNS      *route.Tally
	// Peers is what an admin must know of how this node speaks with others of its fleet.
	Peers func() []string
	// Transfers lists the transfers between nodes that are open.
	Transfers func() []control.Transfer
	// PeersRefused counts who was not let in where other nodes of the fleet are.
	PeersRefused func() uint64
	// StoreRefuses says that the fleet's store answers, and does not do what common orders need.
	StoreRefuses func() bool
	// Relays is what an admin must know of queues whose relay cannot be verified.
	Relays func() []string
	// Opening ends when a stop is asked for: from then on new mail is not looked for.
	Opening context.Context
}

// Watch sees. Its methods may be called by many goroutines.
type Watch struct {
	log          *slog.Logger
	version      string
	settings     *settings.Source
	store        *spool.Store
	queue        *queue.Queue
	orders       *orders.Orders
	settler      *settle.Settler
	events       *event.File
	outcomes     *outcomes.Outcomes
	webhooks     *webhook.Sender
	fleet        *fleet.Fleet
	quotas       *quotas.Book
	warmup       *warmup.Warmup
	history      *history.History
	metrics      *metrics.Metrics
	assessor     *assess.Assessor
	dns          *route.Tally
	relays       func() []string
	peers        func() []string
	transfers    func() []control.Transfer
	peersRefused func() uint64
	storeRefuses func() bool
	opening      context.Context
	web          *web.Handler

	loaded    atomic.Bool                  // the spool has been read
	unsaved   atomic.Pointer[string]       // why state_directory cannot be written; "" if it can, as far as is known
	shutOut   atomic.Pointer[string]       // why mail cannot go back to the host; "" if it can, as far as is known
	bypassed  atomic.Pointer[[]string]     // settings of Postfix that diverted mail passes by; nil: not asked yet
	inlet     atomic.Pointer[inletLook]    // nil: not asked yet
	reloaded  chan struct{}                // wakes SettingsLoop
	hostQueue atomic.Pointer[hostQueue]    // nil: nothing goes back that would make it matter
	milter    atomic.Pointer[milterReport] // the last one; nil: none yet
}

// New returns a Watch that has looked at nothing yet.
func New(o Options) *Watch {
	w := &Watch{
		log: o.Log, version: o.Version, settings: o.Settings, store: o.Store, queue: o.Queue, orders: o.Orders, settler: o.Settler,
		events: o.Events, outcomes: o.Outcomes, webhooks: o.Webhooks, fleet: o.Fleet, quotas: o.Quotas, warmup: o.Warmup, history: o.History, metrics: o.Metrics, assessor: o.Assessor, dns: o.DNS, relays: o.Relays, peers: o.Peers, transfers: o.Transfers, peersRefused: o.PeersRefused, storeRefuses: o.StoreRefuses, opening: o.Opening,
		reloaded: make(chan struct{}, 1),
	}
	w.web = web.New(web.Options{
		Backend: &page{watch: w}, History: o.History, Log: o.Log,
		Hostnames: func() []string {
			c := w.settings.Now().Config
			return append([]string{c.Hostname}, c.Agent.HTTP.Hostnames...)
		},
	})
	return w
}

// Loaded says whether the spool has been read: until then not all mail is in the queue.
func (w *Watch) Loaded() bool { return w.loaded.Load() }

// SetLoaded says that the spool has been read.
func (w *Watch) SetLoaded() { w.loaded.Store(true) }

// Reloaded has the host's settings looked at anew.
func (w *Watch) Reloaded() {
	select {
	case w.reloaded <- struct{}{}:
	default: // it will look at the newest anyhow
	}
}
