package deliver

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/manners"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
)

// Transcript shows how mail for a destination, a domain or an address, would go
// under a configuration: the route, what the domain's policies ask of each host,
// and the dialogue with the first host that answers up to QUIT, with no mail. It
// needs no agent and changes nothing; policies are fetched anew. show gets one
// line after the other, as it happens; log what the route has to say about itself.
//
// The error says why mail would not go now; what was found is shown all the same.
func Transcript(ctx context.Context, c *config.Config, destination string, log *slog.Logger, show func(line string)) error {
	own := *c
	state, err := os.MkdirTemp("", "millrace-trace-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	own.Agent.StateDirectory = state
	set, err := settings.New(&own, log, nil)
	if err != nil {
		return err
	}
	rt, err := set.Route(ctx, settings.Domain("@"+destination), true) // of an address, or as it is
	if err != nil {
		return err
	}
	showRoute(set, rt, show)
	peers, err := set.Hosts(rt)
	if err != nil {
		return err
	}
	var last error
	for _, p := range peers[:min(len(peers), queue.MaxCalls)] {
		show("")
		show(fmt.Sprintf("%s:", p.Relay()))
		if last = transcribe(ctx, set, rt, p, show); last == nil || ctx.Err() != nil {
			return last
		}
		show("-- " + last.Error())
	}
	return last
}

// showRoute tells of the queue and the hosts.
func showRoute(set *settings.Settings, rt queue.Route, show func(string)) {
	q := rt.Queue
	show(fmt.Sprintf("queue %s, tls = %q", q.Name, q.TLS))
	if rt.Simulated {
		show("simulated: the receiver is that of [simulate], inside the agent")
		return
	}
	if rt.Plan == nil {
		show("relay " + rt.Relay)
		return
	}
	if !set.Resolver.TrustsDNSSEC() {
		show("DANE is not looked for: not every resolver is on this host (agent.dane)")
	}
	hosts := make(map[string]route.Host)
	for _, h := range rt.Plan.Hosts {
		hosts[h.Name] = h
	}
	for _, m := range rt.Plan.MX {
		text := fmt.Sprintf("MX %d %s", m.Preference, m.Name)
		h, ok := hosts[m.Name]
		if !ok {
			show(text + ": no address to use")
			continue
		}
		for _, a := range h.Addrs {
			text += " " + a.String()
		}
		show(text + "; policy: " + describeNeed(h.Need))
	}
}

// describeNeed says what the domain's policies ask of a host.
func describeNeed(n route.Need) string {
	switch n.Asks {
	case route.Match:
		list := make([]string, len(n.Records))
		for i, r := range n.Records {
			list[i] = "TLSA " + r.String()
		}
		return "DANE at " + n.ServerName + ", " + strings.Join(list, ", ")
	case route.Encrypt:
		return "DANE, but no usable TLSA record: TLS with any certificate"
	case route.Valid:
		return "MTA-STS, enforced: TLS with a valid certificate"
	case route.Report:
		if n.Err != nil {
			return "MTA-STS, testing; enforced it would not be used: " + n.Err.Error()
		}
		return "MTA-STS, testing"
	case route.Avoid:
		return "not to be used: " + n.Err.Error()
	}
	return "none"
}

// transcribe is one connection, without TLS after all where that fails and the
// agent would go on.
func transcribe(ctx context.Context, set *settings.Settings, rt queue.Route, p settings.Host, show func(string)) error {
	o := set.Options(rt, p, func(what string) { show("-- MTA-STS, testing: " + what) })
	o.Trace = func(e smtp.TraceEvent) { show(e.From.String() + " " + e.Line) }
	o.Timeouts.Quit = time.Second // who looks wants to see its reply too
	c, err := call(ctx, manners.New(), p, o, func(next manners.TLS, err error) {
		show("-- " + err.Error() + "; trying " + next.String())
	})
	if err != nil {
		if noTLS(err) {
			return fmt.Errorf("%w: mail would wait, for TLS is required here", err)
		}
		return err
	}
	c.Quit(ctx)
	return nil
}
