package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/plot"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutOutage = `Mail flows at %d messages a second to a big receiver of %d hosts with %d connections each, %v away, and
to others that have no trouble, half of it each. After %v the big one is down: connections are refused. After %v more it is back;
no more mail is sent from then on, and the clock starts. The figures are of the mail that was injected for it during the
outage, watched for %v; what has not come by then counts as *never*.`

const (
	outageRate        = 100 // messages a second
	outageHosts       = 2
	outageConnections = 10
	outageRTT         = 50 * time.Millisecond
	outageBig         = "big"
)

func outageProviders() []sink.Provider {
	return []sink.Provider{
		{Name: outageBig, Domains: []string{"big.test"}, Hosts: outageHosts, Behaviour: sink.Behaviour{RTT: outageRTT, HostConnections: outageConnections}},
		{Name: "others", Domains: []string{"d*.example"}, Hosts: 4, Behaviour: sink.Behaviour{RTT: outageRTT}},
	}
}

// calm is how long mail flows before the outage.
func (b *bench) calm() time.Duration { return min(10*time.Second, b.outage) }

// recovered is how long each message had to wait from the end of the outage, sorted.
type recovered []time.Duration

func (r recovered) String() string {
	return fmt.Sprintf("first after %s, 90%% after %s, 99%% after %s", seconds(quantile(r, 0)), seconds(quantile(r, 0.9)), seconds(quantile(r, 0.99)))
}

func outage(ctx context.Context, b *bench) ([]section, error) {
	var variants []variant[recovered]
	for _, c := range contenders(world{providers: outageProviders()}) {
		variants = append(variants, variant[recovered]{c.name, func(ctx context.Context) (recovered, error) { return outageOnce(ctx, b, c.world) }})
	}
	found, err := alternate(ctx, b, "Outage", variants, recovered.String)
	if err != nil {
		return nil, err
	}
	at := func(q float64) func(recovered) float64 { return func(r recovered) float64 { return quantile(r, q) } }
	s := section{
		title: "After the outage of a big receiver",
		about: fmt.Sprintf(aboutOutage, outageRate, outageHosts, outageConnections, outageRTT, b.calm(), b.outage, b.recovery),
		tables: []table{{title: "Time from the end of the outage", columns: []string{
			"", "first message", "50% delivered", "90%", "99%", "delivered at the end"}}},
		claims: []claim{
			{what: "time to 90%: with Millrace / Postfix default", got: over(found[2], at(0.9)).to(over(found[0], at(0.9)))},
			{what: "time to 90%: with Millrace / Postfix tuned", got: over(found[2], at(0.9)).to(over(found[1], at(0.9)))},
		},
		compared: []comparison{compare("90% of what waited delivered after an outage's end", found,
			func(r []recovered) string { return over(r, at(0.9)).cell(seconds) })},
	}
	chart := plot.Chart{Title: "After an outage", X: "seconds since its end", Y: "delivered, % of what waited"}
	for i, v := range variants {
		row := []string{v.name}
		for _, q := range []float64{0, 0.5, 0.9, 0.99} {
			row = append(row, over(found[i], at(q)).cell(seconds))
		}
		s.tables[0].rows = append(s.tables[0].rows, append(row, over(found[i], func(r recovered) float64 { return arrivedOf(r) }).cell(percent)))
		chart.Lines = append(chart.Lines, distribution(v.name, slices.Concat(found[i]...), 0))
	}
	s.plots = []chartFile{{"outage", chart}}
	return []section{s}, nil
}

// outageOnce is a round of one variant.
func outageOnce(ctx context.Context, b *bench, w world) (r recovered, err error) {
	came := &arrivals{first: make(map[string]time.Time)}
	w.accepted = came.note
	h, err := start(ctx, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = joinClose(err, h) }()
	mix := append(domains(1), "big.test")
	g := &inject.Generator{Seed: 6, Domains: mix, MinSize: 4 << 10}
	next := 0
	flow := func(during time.Duration) error {
		n := max(int(during.Seconds()*outageRate), 1)
		in := &inject.Injector{Addr: h.Postfix.SMTPAddr(), Connections: patientInjectors, Rate: outageRate, Ledger: &h.sent}
		from := next
		next += n
		run, err := in.Run(ctx, n, func(i int) *inject.Message { return g.Message(from + i) })
		if err == nil && run.Messages != n {
			err = fmt.Errorf("inject: Postfix took %d of %d messages: %w", run.Messages, n, run.Err)
		}
		return err
	}
	down := func(yes bool) error {
		return h.Internet.Change(outageBig, func(b *sink.Behaviour) { b.Down = yes })
	}
	if err := flow(b.calm()); err != nil {
		return nil, err
	}
	if err := down(true); err != nil {
		return nil, err
	}
	began := next
	if err := flow(b.outage); err != nil {
		return nil, err
	}
	var waiting []string
	for i := began; i < next; i++ {
		if strings.HasSuffix(g.Message(i).Recipients[0], "@big.test") {
			waiting = append(waiting, messageID(g, inject.BulkPrefix, i))
		}
	}
	back := time.Now()
	if err := down(false); err != nil {
		return nil, err
	}
	if err := came.await(ctx, back.Add(b.recovery), waiting); err != nil {
		return nil, err
	}
	return came.since(back, waiting), nil
}
