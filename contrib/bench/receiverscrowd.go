package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/sim"
)

const aboutShared = `%d domains, each with an MX of its own name (mail.<domain>), all on one address that takes %d
connections, %v away and %v for a message; %d messages for each domain. Counted after %v.`

const (
	sharedDomains     = 200
	sharedMessages    = 3
	sharedConnections = 10
	sharedRTT         = 50 * time.Millisecond
	sharedAccept      = 100 * time.Millisecond
)

// sharedTime is how long the mail is watched.
func (b *bench) sharedTime() time.Duration {
	if b.quick {
		return b.watched()
	}
	return time.Minute
}

// sharedRound is how a sender fared at the shared host.
type sharedRound struct{ delivered, refused float64 }

func (r sharedRound) String() string {
	return fmt.Sprintf("%.0f of %d delivered, %s refused", r.delivered, sharedDomains*sharedMessages, percent(r.refused))
}

func sharedHost(ctx context.Context, b *bench) (section, error) {
	var variants []variant[sharedRound]
	for _, name := range b.receiverSenders() {
		variants = append(variants, variant[sharedRound]{name, func(ctx context.Context) (sharedRound, error) { return b.shared(ctx, name) }})
	}
	found, err := alternate(ctx, b, "Shared host", variants, sharedRound.String)
	if err != nil {
		return section{}, err
	}
	t := table{title: fmt.Sprintf("Of %d messages", sharedDomains*sharedMessages), columns: []string{"", "delivered", "refused connections / delivered"}}
	for i, v := range variants {
		t.rows = append(t.rows, []string{v.name, over(found[i], func(r sharedRound) float64 { return r.delivered }).cell(count),
			over(found[i], func(r sharedRound) float64 { return r.refused }).cell(percent)})
	}
	return section{
		title:  "A shared host",
		about:  fmt.Sprintf(aboutShared, sharedDomains, sharedConnections, sharedRTT, sharedAccept, sharedMessages, b.sharedTime()),
		tables: []table{t},
	}, nil
}

func (b *bench) shared(ctx context.Context, name string) (round sharedRound, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	r, err := b.newRacer(ctx, name, []sink.Provider{{Name: "shared", Domains: []string{"d*.test"},
		Behaviour: sink.Behaviour{RTT: sharedRTT, AcceptTime: sharedAccept, HostConnections: sharedConnections}}}, lab.MillraceOptions{})
	if err != nil {
		return round, err
	}
	defer func() { err = joinClose(err, r.host) }()
	addr := addressesOf(r, "shared")
	var list []string
	for i := range sharedDomains {
		d := fmt.Sprintf("d%d.test", i)
		list = append(list, d)
		r.Internet.Point(d, sink.Exchanger{Name: "mail." + d, Preference: 10, Addr: addr})
	}
	n := sharedDomains * sharedMessages
	if err := r.take(ctx, n, 0, inTurn(1, list)); err != nil {
		return round, err
	}
	began, err := r.release(ctx, n)
	if err != nil {
		return round, err
	}
	if !waitUntil(ctx, began.Add(b.sharedTime())) {
		return round, ctx.Err()
	}
	stats := r.Internet.Stats()
	p := stats.Provider("shared")
	if name == ourselves {
		told := 0
		r.tell(ctx, b.progress, func(s *control.Site) string {
			if s.Waiting == 0 || told == 3 {
				return ""
			}
			told++
			return "waiting"
		})
	}
	return sharedRound{float64(p.Messages), float64(p.RefusedConnections()) / max(float64(p.Messages), 1)}, nil
}

// addressesOf are those of a provider's hosts.
func addressesOf(r *racer, provider string) (list []netip.Addr) {
	for _, h := range r.Internet.Stats().Hosts {
		if h.Provider == provider {
			list = append(list, netip.MustParseAddr(h.Addr))
		}
	}
	return list
}

// inTurn makes messages for one domain after the other.
func inTurn(seed uint64, domains []string) func(i int) *inject.Message {
	var generators []*inject.Generator
	for k, d := range domains {
		generators = append(generators, &inject.Generator{Seed: seed + uint64(k)<<16, Domains: []string{d}, MinSize: 2 << 10})
	}
	return func(i int) *inject.Message { return generators[i%len(generators)].Message(i / len(generators)) }
}

const aboutJoiners = `A provider (a queue with an MX pattern, ` + "`max_sessions = 200`" + `) of two hosts with %d connections each, 100 ms away
and 300 ms for a message, alone; and beside %d domains whose MX names match the pattern, with %d messages each: a quarter of
their hosts do not answer, a quarter refuse the port, a quarter never greet, and the names of a quarter do not exist. The rate is of the provider's own
mail, from second %.0f to %.0f.`

const (
	joinerDomains     = 199
	joinerMessages    = 5
	joinedConnections = 5
)

// joined is the provider.
func joined() sim.Kind {
	return sim.Kind{Name: "the provider", Sessions: 200, Receiver: sim.Receiver{
		Trips: 2, Noise: 0.5, Hosts: 2, HostLimit: []int{joinedConnections, joinedConnections}, RTT: 100 * time.Millisecond, Service: 300 * time.Millisecond,
	}}
}

func joiners(ctx context.Context, b *bench) (section, error) {
	t := b.newTarget(joined(), "joined", 1, mostOffered)
	t.queue = "provider"
	found, err := alternate(ctx, b, "Joiners", []variant[float64]{
		{"alone", func(ctx context.Context) (float64, error) { return b.joined(ctx, t, 0) }},
		{"beside joiners", func(ctx context.Context) (float64, error) { return b.joined(ctx, t, joinerDomains) }},
	}, func(v float64) string { return fmt.Sprintf("%.1f messages/s", v) })
	if err != nil {
		return section{}, err
	}
	alone, beside := series(found[0]), series(found[1])
	return section{
		title: "A provider with silent joiners",
		about: fmt.Sprintf(aboutJoiners, joinedConnections, joinerDomains, joinerMessages, b.learn.Seconds(), b.watched().Seconds()),
		tables: []table{{title: "Rate of the provider's own mail", columns: []string{"", "messages/s"}, rows: [][]string{
			{"alone", alone.cell(figureOf)}, {"beside joiners", beside.cell(figureOf)}, {"possible", figureOf(t.rate)},
		}}},
		claims: []claim{{what: "rate of a provider: beside silent joiners / alone", reach: "at least 0.9", got: beside.to(alone), met: atLeast(0.9)}},
	}, nil
}

func figureOf(v float64) string { return fmt.Sprintf("%.1f", v) }

// joined gives the provider's rate beside so many joiners.
func (b *bench) joined(ctx context.Context, t *target, joiners int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	each := (joinerDomains + 3) / 4
	hosts := func(name string, behaviour sink.Behaviour) sink.Provider {
		return sink.Provider{Name: name, Domains: []string{name + ".example"}, Hosts: each, Behaviour: behaviour}
	}
	providers, err := providersOf([]*target{t})
	if err != nil {
		return 0, err
	}
	kinds := []string{"silent", "refusing", "ungreeting"}
	providers = append(providers, hosts(kinds[0], sink.Behaviour{Unreachable: true}), hosts(kinds[1], sink.Behaviour{Down: true}),
		hosts(kinds[2], sink.Behaviour{HangConnect: 1}))
	r, err := b.newRacer(ctx, ourselves, providers, lab.MillraceOptions{Extra: "[[queue]]\nname = \"provider\"\nmx = [\"*.joined.test\"]\n"})
	if err != nil {
		return 0, err
	}
	defer func() { err = joinClose(err, r.host) }()
	var list []string
	for i := range joiners {
		d := fmt.Sprintf("j%d.example", i)
		list = append(list, d)
		x := sink.Exchanger{Name: fmt.Sprintf("mx.j%d.joined.test", i), Preference: 10}
		if k := i % 4; k < len(kinds) {
			x.Addr = addressesOf(r, kinds[k])[i/4 : i/4+1]
		}
		r.Internet.Point(d, x)
	}
	if err := r.take(ctx, joiners*joinerMessages, 0, inTurn(3, list)); err != nil {
		return 0, err
	}
	share, err := r.watch(ctx, b, []*target{t})
	if err != nil {
		return 0, err
	}
	return share[0].share * t.rate, nil
}

const aboutHostile = `Four receivers, each of two hosts with 10 connections, alone; and beside %d domains of a stranger who lists
the eight hosts of these among the exchangers of each of his domains, before a host of his own that throttles (one message a second, one
connection), with %d messages each, which the four refuse (554). The rate is of the four's own mail, from second %.0f to %.0f.`

const (
	hostileDomains  = 50
	hostileMessages = 20
	victims         = 4
)

func hostile(ctx context.Context, b *bench) (section, error) {
	var list []*target
	for i := range victims {
		k := sim.Kind{Name: fmt.Sprintf("victim %d", i+1), Sessions: 200, Receiver: sim.Receiver{
			Trips: 2, Noise: 0.5, Hosts: 2, HostLimit: []int{10, 10}, PerConnection: 20, RTT: 60 * time.Millisecond, Service: 200 * time.Millisecond,
		}}
		list = append(list, b.newTarget(k, fmt.Sprintf("victim%d", i+1), 1, mostOffered))
	}
	total := 0.0
	for _, t := range list {
		total += t.rate
	}
	found, err := alternate(ctx, b, "Hostile domains", []variant[float64]{
		{"alone", func(ctx context.Context) (float64, error) { return b.victimized(ctx, list, 0) }},
		{"beside hostile domains", func(ctx context.Context) (float64, error) { return b.victimized(ctx, list, hostileDomains) }},
	}, func(v float64) string { return fmt.Sprintf("%.1f messages/s", v) })
	if err != nil {
		return section{}, err
	}
	alone, beside := series(found[0]), series(found[1])
	return section{
		title: "Domains that list victims' addresses",
		about: fmt.Sprintf(aboutHostile, hostileDomains, hostileMessages, b.learn.Seconds(), b.watched().Seconds()),
		tables: []table{{title: "Rate of the victims' own mail", columns: []string{"", "messages/s"}, rows: [][]string{
			{"alone", alone.cell(figureOf)}, {"beside hostile domains", beside.cell(figureOf)}, {"possible", figureOf(total)},
		}}},
		claims: []claim{{what: "rate of the victims: beside hostile domains / alone", reach: "at least 0.98", got: beside.to(alone), met: atLeast(0.98)}},
	}, nil
}

// victimized gives the rate of all victims beside so many hostile domains.
func (b *bench) victimized(ctx context.Context, list []*target, domains int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	providers, err := providersOf(list)
	if err != nil {
		return 0, err
	}
	providers = append(providers, sink.Provider{Name: "stranger", Domains: []string{"e*.test"},
		Behaviour: sink.Behaviour{RTT: 60 * time.Millisecond, HostConnections: 1, Rate: 1}})
	r, err := b.newRacer(ctx, ourselves, providers, lab.MillraceOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = joinClose(err, r.host) }()
	var all []netip.Addr
	for _, t := range list {
		all = append(all, addressesOf(r, t.name)...)
	}
	all = append(all, addressesOf(r, "stranger")...)
	var names []string
	for i := range domains {
		d := fmt.Sprintf("e%d.test", i)
		names = append(names, d)
		var xs []sink.Exchanger
		for k, a := range all {
			xs = append(xs, sink.Exchanger{Name: fmt.Sprintf("mx%d.%s", k, d), Preference: 10, Addr: []netip.Addr{a}})
		}
		r.Internet.Point(d, xs...)
	}
	if err := r.take(ctx, domains*hostileMessages, 0, inTurn(3, names)); err != nil {
		return 0, err
	}
	found, err := r.watch(ctx, b, list)
	for i, m := range found {
		rate += m.share * list[i].rate
	}
	return rate, err
}

const aboutBackup = `%d domains, each with an exchanger of its own and, at a lower preference, one that all share. Counted by the
agent's own list are its sites while the mail is under way: there ought to be as many as domains.`

const (
	backupDomains = 1000
	backupTime    = 20 * time.Second // to count in
)

func commonBackup(ctx context.Context, b *bench) (section, error) {
	found, err := alternate(ctx, b, "Common backup", []variant[float64]{{"sites", b.backups}}, count)
	if err != nil {
		return section{}, err
	}
	sites := series(found[0])
	return section{
		title:  "A common backup",
		about:  fmt.Sprintf(aboutBackup, backupDomains),
		tables: []table{{title: "Sites", columns: []string{"", "sites"}, rows: [][]string{{fmt.Sprintf("%d domains", backupDomains), sites.cell(count)}}}},
		claims: []claim{{what: "sites / domains, with primaries of their own and one common backup", reach: "1", got: over(sites, func(n float64) float64 { return n / backupDomains }),
			met: func(v float64) bool { return v == 1 }}},
	}, nil
}

// backups counts the sites of the domains with a common backup.
func (b *bench) backups(ctx context.Context) (sites float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	// So slow that each site is still there when the last one has come.
	r, err := b.newRacer(ctx, ourselves, []sink.Provider{
		{Name: "primaries", Domains: []string{"b*.test"}, Hosts: backupDomains, Behaviour: sink.Behaviour{RTT: 10 * time.Second}},
		{Name: "backup", Domains: []string{"backup.test"}},
	}, lab.MillraceOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = joinClose(err, r.host) }()
	own, common := addressesOf(r, "primaries"), addressesOf(r, "backup")
	var list []string
	for i := range backupDomains {
		d := fmt.Sprintf("b%d.test", i)
		list = append(list, d)
		r.Internet.Point(d, sink.Exchanger{Name: "mx." + d, Preference: 10, Addr: own[i : i+1]},
			sink.Exchanger{Name: "backup.backup.test", Preference: 20, Addr: common})
	}
	if err := r.take(ctx, backupDomains, 0, inTurn(3, list)); err != nil {
		return 0, err
	}
	if _, err := r.release(ctx, backupDomains); err != nil {
		return 0, err
	}
	c := control.NewClient(r.Millrace.Control())
	defer c.Close()
	seen := map[string]bool{}
	ctx, enough := context.WithTimeout(ctx, backupTime)
	defer enough()
	err = lab.Until(ctx, func() (bool, error) {
		status, err := c.Status(ctx)
		if err != nil {
			return false, err
		}
		for _, s := range status.Sites {
			if !strings.HasPrefix(s.Name, "relay") {
				seen[s.Name] = true
			}
		}
		return len(seen) >= backupDomains, nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return 0, err
	}
	return float64(len(seen)), nil
}
