package agent

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet/marks"
	"github.com/millrace/millrace/agent/fleet/peer"
	"github.com/millrace/millrace/agent/trace"
)

// peersOptions say how this node speaks with the others of its fleet.
type peersOptions struct {
	Files   peer.Files
	Listen  string                   // host:port
	Members func() []string          // names of all nodes, this one among them; must not wait
	Member  func(node string) bool   // whether one is of them
	Address func(node string) string // where one listens; "": not known
}

// peers are the other nodes; nil: this host is of no fleet, or its nodes do not listen.
type peers struct {
	o        peersOptions
	identity *peer.Identity
	server   *peer.Server
	client   *peer.Client
	marks    *marks.Book
}

// joinPeers has the agent speak with the other nodes once it runs. It is called between New
// and Run; others may add handlers to the server, and use the client.
func (a *Agent) joinPeers(o peersOptions) *peers {
	id := peer.NewIdentity(o.Files, a.log)
	p := &peers{
		o: o, identity: id,
		server: peer.NewServer(peer.ServerOptions{Address: o.Listen, Identity: id, Member: o.Member, Log: a.log}),
		client: peer.NewClient(peer.ClientOptions{Identity: id, Member: o.Member, Address: o.Address}),
	}
	p.marks = marks.Open(marks.Options{
		Log: a.log, Spool: a.settings.Now().Config.Spool.Directory, Node: o.Files.Node, Own: a.assessor.Key, Nodes: o.Members,
		Get: func(ctx context.Context, node string) (x marks.Published, err error) {
			err = p.client.Call(ctx, node, http.MethodGet, "/v1/marks", nil, &x)
			return x, err
		},
	})
	p.server.Handle("GET /v1/marks", p.marks.Handler())
	p.server.Handle("POST /v1/report", a.assessor.Receiver())
	p.server.Handle("GET /v1/fleet/", control.Views(a.backend(), a.log))
	a.assessor.Members, a.assessor.HandOver = p.marks.Members, p.report
	a.peers = p
	return p
}

// report hands a report to the node that sent what it is about.
func (p *peers) report(ctx context.Context, node string, message []byte) error {
	resp, err := p.client.Do(ctx, node, http.MethodPost, "/v1/report", bytes.NewReader(message))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return peer.Refusal(node, resp)
	}
	return nil
}

// Node implements control.Nodes.
func (p *peers) Node() string { return p.o.Files.Node }

// Nodes implements control.Nodes.
func (p *peers) Nodes() []string { return p.o.Members() }

// Get implements control.Nodes. The deadline is control's.
func (p *peers) Get(ctx context.Context, node, path string) (io.ReadCloser, error) {
	resp, err := p.client.Do(ctx, node, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, peer.Refusal(node, resp)
	}
	return resp.Body, nil
}

var _ control.Nodes = (*peers)(nil)

// trouble is what an admin must know; nothing of it stops mail.
func (p *peers) trouble() (list []string) {
	if p == nil {
		return nil
	}
	for _, text := range []string{p.identity.Trouble(), p.server.Trouble()} {
		if text != "" {
			list = append(list, text)
		}
	}
	return list
}

// refused counts who was not let in.
func (p *peers) refused() uint64 {
	if p == nil {
		return 0
	}
	return p.server.Refused()
}

// run answers and asks until ctx ends.
func (p *peers) run(ctx context.Context) {
	if p == nil {
		return
	}
	var all sync.WaitGroup
	all.Go(func() { p.server.Run(ctx) })
	all.Go(func() { p.marks.Run(ctx) })
	all.Wait()
	p.client.Close()
}

// pastMembers are the keys of nodes that a host of no fleet has been together with: reports on
// mail that they have sent still count. They are read once.
func pastMembers(spool string, log *slog.Logger) func() []trace.Member {
	list := marks.Open(marks.Options{Log: log, Spool: spool}).Members()
	if len(list) == 0 {
		return nil
	}
	return func() []trace.Member { return list }
}
