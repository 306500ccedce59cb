package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutOdd = `Each row is a receiver as public bug reports tell of them, all at once, beside two that are well. Each gets %d
messages of one to four recipients, the odd ones and the well ones alike, and is watched for %v. The figures are the share of
the recipients that have got their message, and when half of them and the last of them had. *Postfix* is smtp(8) as Debian
ships it, the measure of patience: what it delivers, a sender must deliver.`

// oddMessages is how many messages each receiver gets.
const oddMessages = 40

// oddReceiver is a receiver and what is odd about it.
type oddReceiver struct {
	name, about string
	all         sink.Behaviour
	hosts       int
	first       func(*sink.Behaviour) // how the first host differs; its preference is the better one
	ends        func(*sink.Behaviour) // at the end of oddTrouble
}

// oddTrouble is how long a trouble lasts that ends.
const oddTrouble = 90 * time.Second

func oddReceivers() []oddReceiver {
	rtt := 5 * time.Millisecond
	b := func(change func(*sink.Behaviour)) sink.Behaviour {
		x := sink.Behaviour{RTT: rtt}
		if change != nil {
			change(&x)
		}
		return x
	}
	// Without a round trip: with one, Postfix loses its TLS connections to this sink at the dot.
	secure := func(m sink.TLSManner) sink.Behaviour {
		return b(func(x *sink.Behaviour) { x.RTT, x.StartTLS, x.TLS = 0, true, m })
	}
	says := func(c sink.Cause, reply string, change func(*sink.Behaviour)) sink.Behaviour {
		return b(func(x *sink.Behaviour) { x.Say = map[sink.Cause]string{c: reply}; change(x) })
	}
	troubled := func(at sink.Stage, reply string) func(*sink.Behaviour) {
		return func(x *sink.Behaviour) {
			x.Trouble = at
			if reply != "" {
				x.Say = map[sink.Cause]string{sink.CauseTrouble: reply}
			}
		}
	}
	well := func(x *sink.Behaviour) { x.Trouble = "" }
	return []oddReceiver{
		{name: "well", about: "well", all: b(nil), hosts: 2},
		{name: "welltls", about: "well, with TLS", all: secure(""), hosts: 2},
		{name: "nolisting", about: "the first MX greets with 421", all: b(nil), hosts: 2, first: troubled(sink.TroubleBanner, "421 Service not available")},
		{name: "firstehlo", about: "the first MX fails at EHLO", all: b(nil), hosts: 2, first: troubled(sink.TroubleEHLO, "")},
		{name: "firstmail", about: "the first MX fails at MAIL", all: b(nil), hosts: 2, first: troubled(sink.TroubleMail, "")},
		{name: "firstrcpt", about: "the first MX fails at RCPT", all: b(nil), hosts: 2, first: troubled(sink.TroubleRcpt, "")},
		{name: "firstdot", about: "the first MX fails at the dot", all: b(nil), hosts: 2, first: troubled(sink.TroubleDot, "")},
		{name: "tlsmute", about: "closes after the handshake", all: secure(sink.TLSMute)},
		{name: "tlssilent", about: "never answers the handshake", all: secure(sink.TLSSilent)},
		{name: "tlssmall", about: "hangs at a large ClientHello", all: secure(sink.TLSSmall)},
		{name: "bdat500", about: "announces CHUNKING, 500 to BDAT", all: b(func(x *sink.Behaviour) { x.Chunking, x.BDAT = true, "500 5.5.1 unknown command" })},
		{name: "bdatclose", about: "announces CHUNKING, closes at BDAT", all: b(func(x *sink.Behaviour) { x.Chunking, x.BDAT = true, "close" })},
		{name: "few", about: "552 5.5.3 to the third recipient", all: says(sink.CauseRecipients, "552 5.5.3 Too many recipients", func(x *sink.Behaviour) { x.MaxRecipients = 2 })},
		{name: "screen", about: "450 4.3.2 on the first connection", all: b(func(x *sink.Behaviour) { x.Screen = true })},
		{name: "troubled", about: fmt.Sprintf("451 to all at RCPT for %v", oddTrouble), all: b(troubled(sink.TroubleRcpt, "")), hosts: 2, ends: well},
		{name: "grey", about: "greylisting of 60 s, told", all: says(sink.CauseGreylist, "450 4.2.0 Greylisted, try again in 60 seconds", func(x *sink.Behaviour) { x.Greylist = time.Minute })},
		{name: "grey300", about: "greylisting of 300 s that begins anew", all: b(func(x *sink.Behaviour) { x.Greylist, x.Greylists = 5*time.Minute, sink.GreylistRestarts })},
		{name: "junk", about: "lines that are no replies", all: b(func(x *sink.Behaviour) { x.Junk = true })},
	}
}

func oddProviders() (list []sink.Provider) {
	for _, r := range oddReceivers() {
		p := sink.Provider{Name: r.name, Domains: []string{r.name + ".test"}, Behaviour: r.all, Hosts: max(r.hosts, 1)}
		if r.first != nil {
			p.Host = []sink.Host{{Name: "mx1." + r.name + ".test", Preference: 10}, {Name: "mx2." + r.name + ".test", Preference: 20}}
		}
		list = append(list, p)
	}
	return list
}

// copies are when each recipient got a message first.
type copies struct {
	mu    sync.Mutex
	first map[string]time.Time // by message and recipient
}

func (c *copies) note(m *sink.Message) {
	now, id := time.Now(), labID(m.Content)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range m.Recipients {
		key := id + " " + r.Address
		if _, again := c.first[key]; !again {
			c.first[key] = now
		}
	}
}

// oddRound is how long each recipient waited at each receiver, sorted.
type oddRound [][]time.Duration

func (r oddRound) String() string {
	all, come := 0, 0
	for _, x := range r {
		all += len(x)
		for _, d := range x {
			if d < never {
				come++
			}
		}
	}
	return fmt.Sprintf("%d of %d copies delivered", come, all)
}

func odd(ctx context.Context, b *bench) ([]section, error) {
	var variants []variant[oddRound]
	for _, c := range contenders(world{providers: oddProviders()}) {
		if c.name == asTuned {
			continue // it is no more patient
		}
		c.postfix = &lab.PostfixOptions{Extra: map[string]string{"smtp_tls_security_level": "may"}} // as Debian sets it up
		variants = append(variants, variant[oddRound]{c.name, func(ctx context.Context) (oddRound, error) { return oddOnce(ctx, b, c.world) }})
	}
	found, err := alternate(ctx, b, "Odd receivers", variants, oddRound.String)
	if err != nil {
		return nil, err
	}
	t := table{title: "What odd receivers got", columns: []string{"receiver"}}
	for _, v := range variants {
		t.columns = append(t.columns, v.name+": delivered", "half", "last")
	}
	for i, r := range oddReceivers() {
		row := []string{r.about}
		for k := range variants {
			at := func(q float64) func(oddRound) float64 { return func(x oddRound) float64 { return quantile(x[i], q) } }
			row = append(row, over(found[k], func(x oddRound) float64 { return arrivedOf(x[i]) }).cell(percent),
				over(found[k], at(0.5)).cell(seconds), over(found[k], at(1)).cell(seconds))
		}
		t.rows = append(t.rows, row)
	}
	return []section{{title: "Odd receivers", about: fmt.Sprintf(aboutOdd, oddMessages, b.odd), tables: []table{t}}}, nil
}

// oddOnce is a round of one variant.
func oddOnce(ctx context.Context, b *bench, w world) (r oddRound, err error) {
	came := &copies{first: make(map[string]time.Time)}
	w.accepted = came.note
	h, err := start(ctx, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = joinClose(err, h) }()
	list := oddReceivers()
	for _, x := range list {
		if x.first != nil {
			if err := h.Internet.Change("mx1."+x.name+".test", x.first); err != nil {
				return nil, err
			}
		}
	}
	g := &inject.Generator{Seed: 9, Domains: domainsOf(w.providers), MinSize: 4 << 10, MaxRecipients: 4}
	in := &inject.Injector{Addr: h.Postfix.SMTPAddr(), Connections: patientInjectors, Ledger: &h.sent}
	n := oddMessages * len(list)
	began := time.Now()
	run, err := in.Run(ctx, n, g.Message)
	if err == nil && run.Messages != n {
		err = fmt.Errorf("inject: Postfix took %d of %d messages: %w", run.Messages, n, run.Err)
	}
	if err != nil {
		return nil, err
	}
	want := make(map[string][]string) // by domain
	for i := range n {
		id := messageID(g, inject.BulkPrefix, i)
		for _, to := range g.Message(i).Recipients {
			domain := to[strings.LastIndexByte(to, '@')+1:]
			want[domain] = append(want[domain], id+" "+to)
		}
	}
	wait := func(until time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(began.Add(until))):
			return nil
		}
	}
	if err := wait(min(oddTrouble, b.odd/2)); err != nil {
		return nil, err
	}
	for _, x := range list {
		if x.ends != nil {
			if err := h.Internet.Change(x.name, x.ends); err != nil {
				return nil, err
			}
		}
	}
	if err := wait(b.odd); err != nil {
		return nil, err
	}
	came.mu.Lock()
	defer came.mu.Unlock()
	for _, x := range list {
		var took []time.Duration
		for _, key := range want[x.name+".test"] {
			d := never
			if at, ok := came.first[key]; ok {
				d = at.Sub(began)
			}
			took = append(took, d)
		}
		slices.Sort(took)
		r = append(r, took)
	}
	return r, nil
}
