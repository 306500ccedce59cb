// Package admin is what admins may do and see: the control socket's Backend.
//
// A Backend owns nothing that outlives a request. It gives lasting changes to package
// orders and final outcomes to package settle, and answers questions from the queue, the
// spool, the history and package watch.
//
// Pause, Resume, Limit and Prioritize (verbs.go) change what is in force, durable when
// they return. Act and HandBack (act.go, handback.go) are done once: an action goes over
// the queue in passes, page by page, takes out the recipients that are picked and has
// them settled; those that are in a transaction it goes after for some seconds. While the
// spool is being read they are refused, as half of what is meant would be left out.
//
// In a fleet a cancel and what becomes of the suppression list are orders for all nodes: FollowCancels
// and FollowSuppression (fleet.go, fleetsuppress.go) run beside the requests.
//
// The rest lists (listing.go, shape.go) or is about the suppression list (suppress.go). The
// terms are explained in agent/doc.go.
package admin

import (
	"log/slog"
	"sync"

	"github.com/millrace/millrace/agent/assess"
	"github.com/millrace/millrace/agent/breaker"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/move"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcomes"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
	"github.com/millrace/millrace/agent/watch"
	"github.com/millrace/millrace/agent/webhook"
)

// Options are what a Backend works with. None but Fleet and Reload may be missing.
type Options struct {
	Log      *slog.Logger
	Version  string
	Settings *settings.Source
	Store    *spool.Store
	Queue    *queue.Queue
	Orders   *orders.Orders
	Settler  *settle.Settler
	Watch    *watch.Watch
	History  *history.History
	Metrics  *metrics.Metrics
	Bounced  *suppress.List
	Assessor *assess.Assessor
	Outcomes *outcomes.Outcomes
	Breaker  *breaker.Breaker
	Webhooks *webhook.Sender
	Mover    *move.Mover
	Fleet    *fleet.Fleet // nil: there is none
	// Dialogues may be watched.
	Dialogues *dialogue.Board
	// Exchange carries the orders of Orders.Common; nil if there are none.
	Exchange Exchange
	Alone    string       // why there are none on this node of a fleet; "": there are, or it is of none
	Reload   func() error // reads the configuration and puts it into force; nil: there is none to read
	// SaveLearned makes durable what is known of receivers by now.
	SaveLearned func() error
}

// Backend serves the control socket. Its methods may be called by many goroutines.
type Backend struct {
	log       *slog.Logger
	version   string
	settings  *settings.Source
	store     *spool.Store
	queue     *queue.Queue
	orders    *orders.Orders
	settler   *settle.Settler
	watch     *watch.Watch
	history   *history.History
	metrics   *metrics.Metrics
	bounced   *suppress.List
	assessor  *assess.Assessor
	outcomes  *outcomes.Outcomes
	dialogues *dialogue.Board
	breaker   *breaker.Breaker
	webhooks  *webhook.Sender
	mover     *move.Mover
	fleet     *fleet.Fleet
	reload    func() error

	saveLearned func() error

	exchange   Exchange
	alone      string     // why what is ordered here is for this node alone
	cancelling sync.Mutex // one cancel of the fleet at a time
	learnedMu  sync.Mutex
	learned    []suppress.Entry // that the fleet is to be told
}

var _ control.Backend = (*Backend)(nil)

// New returns a Backend.
func New(o Options) *Backend {
	return &Backend{
		log: o.Log, version: o.Version, settings: o.Settings, store: o.Store, queue: o.Queue, orders: o.Orders,
		settler: o.Settler, watch: o.Watch, history: o.History, metrics: o.Metrics, bounced: o.Bounced, assessor: o.Assessor, outcomes: o.Outcomes, breaker: o.Breaker, webhooks: o.Webhooks, mover: o.Mover, dialogues: o.Dialogues, reload: o.Reload, fleet: o.Fleet, exchange: o.Exchange, alone: o.Alone,
		saveLearned: o.SaveLearned,
	}
}
