package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/fleet/exchange"
	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/agent/fleet/peer"
	"github.com/millrace/millrace/agent/move"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/warmup"
)

// joinFleet reads what this host knows of its fleet; a host of none has no Lender.
func (a *Agent) joinFleet(c *config.Config) (queue.Lender, error) {
	if !c.Fleet.On() {
		return nil, nil
	}
	f, err := fleet.Open(fleet.Options{Config: c.Fleet, Directory: c.Agent.StateDirectory, Log: a.log})
	if err != nil {
		return nil, fmt.Errorf("the fleet: %w", err)
	}
	a.fleet = f
	return f, nil
}

// runFleet renews the leases until ctx ends: while transactions finish after a stop was asked for,
// too, as they are of what is lent.
func (a *Agent) runFleet(ctx context.Context) {
	if a.fleet == nil {
		return
	}
	a.fleet.Run(ctx, fleet.Work{
		Wanted: a.queue.Wanted, Lent: a.queue.Lent, Granted: a.queue.QuotasGranted, Address: a.peerAddress,
		Counted: func(now time.Time, yield func(fleet.Count)) {
			a.quotas.Counted(now, func(k quotas.Key, day string, limit, counted int) {
				yield(fleet.Count{Key: quotaLimit(k), Day: day, Limit: limit, Counted: counted})
			})
			set := a.settings.Now()
			a.warmup.Counted(now, func(k warmup.Key, day string, share, counted int) {
				if set.SharesWarmup(k.Address) {
					yield(fleet.Count{Key: warmupLimit(k), Day: day, Limit: share, Counted: counted})
				}
			})
		},
	})
}

// The names by which the nodes of a fleet know the limits of counts. Names of streams and queues
// have no blanks.
func quotaLimit(k quotas.Key) string {
	period := "h"
	if k.Day {
		period = "d"
	}
	return strings.Join([]string{"quota", k.Stream, k.Provider, period}, "/")
}

func warmupLimit(k warmup.Key) string { return "warmup/" + k.Address + "/" + k.Provider }

// quotaBound is how much of a stream's quota this node may count; nil: all of it.
func (a *Agent) quotaBound() func(quotas.Key, string, int) int {
	if a.fleet == nil {
		return nil
	}
	return func(k quotas.Key, day string, limit int) int { return a.fleet.Bound(quotaLimit(k), day, limit) }
}

// warmupBound is the same of an address that warms up.
func (a *Agent) warmupBound() func(warmup.Key, string, int) int {
	if a.fleet == nil {
		return nil
	}
	return func(k warmup.Key, day string, share int) int {
		if !a.settings.Now().SharesWarmup(k.Address) {
			return share
		}
		return a.fleet.Bound(warmupLimit(k), day, share)
	}
}

// ordersFile, in the state directory, has the common orders of the fleet.
const ordersFile = "orders.log"

// common is what brings common orders of a fleet; the zero value: there is none.
type common struct {
	log      *order.Log
	exchange exchange.Options // but for Log, Fleet, Logger and Position
	direct   bool             // nodes can call each other
	trouble  string           // why there is none, where there should be
	alone    bool             // what is ordered on this node of a fleet is for it alone, by that trouble
}

// troubles is what an admin must know.
func (c *common) troubles() []string {
	if c.trouble == "" {
		return nil
	}
	return []string{c.trouble}
}

// openCommon reads the common orders. Where this node's certificate cannot be used nothing is
// common, and the agent starts: what is in force here stays so.
func openCommon(c *config.Config, log *slog.Logger) (common, error) {
	f := &c.Fleet
	if !f.On() && fleet.HasPart(c.Agent.StateDirectory) {
		text := "[fleet] is not in the configuration, and this node did not leave its fleet: it keeps to none of the limits that the others count on. " +
			"Remedy: bring [fleet] back and say millrace fleet leave first; or have another node say millrace fleet forget, and remove fleet.json from state_directory"
		log.Warn(text)
		return common{trouble: text}, nil
	}
	if !f.On() {
		return common{}, nil
	}
	if why := f.Alone(); why != "" {
		if f.KeyRefused != "" { // else the configuration's notices say so
			log.Error("the fleet: " + why)
		}
		return common{trouble: why, alone: true}, nil
	}
	pair, roots, err := filesOf(f).Load()
	var l *order.Log
	if err == nil {
		l, err = order.Open(order.Options{
			Fleet: f.Name, Node: f.Node, Path: filepath.Join(c.Agent.StateDirectory, ordersFile), Certificate: &pair, Roots: roots, Log: log,
		})
		if err != nil && !errors.Is(err, order.ErrCertificate) {
			return common{}, fmt.Errorf("the fleet: %w", err)
		}
	}
	if err != nil {
		log.Error("the fleet: nothing is ordered for all nodes from here, and nothing is heard of theirs", "err", err)
		return common{trouble: "common orders of the fleet are off until millrace-agent is restarted, and what is ordered here is in force here only: " + err.Error(), alone: true}, nil
	}
	x := exchange.Options{Client: fleet.Client(f), Plain: fleet.Plain}
	if f.Listen != "" {
		x.Address = f.Advertise
	}
	return common{log: l, exchange: x, direct: f.Listen != ""}, nil
}

// filesOf are this node's certificate and the authorities of its fleet.
func filesOf(f *config.Fleet) peer.Files {
	return peer.Files{Fleet: f.Name, Node: f.Node, CA: f.TLSCAFile, Cert: f.TLSCertFile, Key: f.TLSKeyFile}
}

// exchangeOrders has common orders brought to all nodes once the agent runs.
func (a *Agent) exchangeOrders(shared common) {
	if shared.log == nil {
		return
	}
	x := shared.exchange
	x.Log, x.Fleet, x.Logger = shared.log, shared.log.Fleet(), a.log
	x.Position = func() string { return a.store.Position().String() }
	if a.fleet != nil {
		x.Members = a.fleet.Members
	}
	if shared.direct {
		x.Send = func(ctx context.Context, node string, body []byte) ([]byte, error) {
			return a.peers.sendOrders(ctx, node, body)
		}
	}
	a.exchange = exchange.New(x)
}

// meetPeers has this node speak with the others of its fleet once the agent runs: what each has
// listed, marks, orders, mail that moves.
func (a *Agent) meetPeers(c *config.Config) {
	f := &c.Fleet
	if !f.On() || f.Listen == "" || f.KeyRefused != "" {
		return
	}
	p := a.joinPeers(peersOptions{
		Files:  filesOf(f),
		Listen: f.Listen, Members: a.fleet.Members,
		Member:  func(node string) bool { return slices.Contains(a.fleet.Members(), node) },
		Address: func(node string) string { return cmp.Or(a.peerAddress(node), a.fleet.Address(node)) },
	})
	p.server.HandleSized("/v1/move/", move.MaxContent, a.mover.Handler(func(r *http.Request) string { return peer.NodeOf(r.Context()) }))
	a.mover.Use(f.Node, p.client)
	if a.exchange != nil {
		p.server.HandleSized("POST /v1/orders", exchange.MaxMessage, http.HandlerFunc(a.takeOrders))
	}
}

// peerAddress is where another node answers, by its last report; "": none has come since the start.
func (a *Agent) peerAddress(node string) string {
	if a.orders.Common() == nil {
		return ""
	}
	return a.orders.Common().Address(node)
}

// takeOrders answers what another node sends.
func (a *Agent) takeOrders(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := a.exchange.Take(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Write(answer) // an error is the other node's
}

// errNoPeers is why nothing is sent directly.
var errNoPeers = errors.New("this node does not listen for others of its fleet")

// sendOrders sends orders to another node, which answers.
func (p *peers) sendOrders(ctx context.Context, node string, body []byte) ([]byte, error) {
	if p == nil {
		return nil, errNoPeers
	}
	resp, err := p.client.Do(ctx, node, http.MethodPost, "/v1/orders", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, peer.Refusal(node, resp)
	}
	return io.ReadAll(io.LimitReader(resp.Body, exchange.MaxMessage))
}
