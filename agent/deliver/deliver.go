// Package deliver is the life of a session: connect, then settle the last transaction,
// take the next, send it.
//
// A Deliverer owns what is known of the other side: how hosts must be spoken to (package
// manners), and the queues whose relay cannot be verified. It promises that
// TLS that is required is never given up, that the same bytes are sent at every try, and
// that a transaction begins after the outcome of the last one is in the journal.
//
// The queue starts one goroutine for each session, which calls Session. Until the
// connection is up (connect.go) a session holds no mail; then Step and transact alternate
// (session.go). What each reply decides is read in replies.go with package outcome, and
// package settle makes it final. A session ends when the queue has no more for it, or
// with its connection. Opening ends connects, Stop cuts transactions.
//
// Transcript shows the same way with no mail, for an admin. The terms are explained in
// agent/doc.go.
package deliver

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/manners"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
)

// Options are what a Deliverer works with. None may be missing, where nothing else is said.
type Options struct {
	Log      *slog.Logger
	Mail     *event.Log
	Settings *settings.Source
	Store    *spool.Store
	Queue    *queue.Queue
	Settler  *settle.Settler
	Orders   *orders.Orders
	Metrics  *metrics.Metrics
	// Dialogues are those that admins may watch.
	Dialogues *dialogue.Board
	Key       []byte          // of the loop mark in our Received fields
	Secrets   [][]byte        // that this host shares with others for what is sealed there; may be missing
	Opening   context.Context // ends when connects under way are to be given up
	Stop      context.Context // ends when transactions in flight must be cut
}

// Deliverer serves sessions. Its methods may be called by many goroutines.
type Deliverer struct {
	log       *slog.Logger
	mail      *event.Log
	settings  *settings.Source
	store     *spool.Store
	queue     *queue.Queue
	settler   *settle.Settler
	orders    *orders.Orders
	metrics   *metrics.Metrics
	dialogues *dialogue.Board
	key       []byte
	keys      atomic.Pointer[trace.Keys] // of key and the secrets of the configuration
	opening   context.Context
	stop      context.Context

	manners *manners.Memory
	relays  relays
	seconds seconds
}

// New returns a Deliverer that knows nothing of any host.
func New(o Options) *Deliverer {
	d := &Deliverer{
		log: o.Log, mail: o.Mail, settings: o.Settings, store: o.Store, queue: o.Queue, settler: o.Settler, orders: o.Orders,
		metrics: o.Metrics, dialogues: o.Dialogues, key: o.Key, opening: o.Opening, stop: o.Stop, manners: manners.New(),
	}
	d.mark(o.Secrets)
	return d
}

// mark takes shared secrets for the marks of what is sent from now on.
func (d *Deliverer) mark(secrets [][]byte) {
	keys := trace.NewKeys(d.key, secrets...)
	d.keys.Store(&keys)
}

// Trouble is what an admin must know of queues whose relay cannot be verified.
func (d *Deliverer) Trouble() []string { return d.relays.shown() }

// Reload forgets what a new configuration makes untrue, and takes its secrets.
func (d *Deliverer) Reload(c *config.Config) {
	d.relays.keep(c)
	d.mark(c.Feedback.Secrets)
}
