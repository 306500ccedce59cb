// Command millrace-sink runs a fake internet: a DNS server and SMTP receivers
// on loopback addresses, with the limits, delays and faults of a scenario.
//
//	go run ./contrib/lab/sink/cmd/millrace-sink --preset mixed
//
// Its --help shows how to point a sender at it, and how to change a receiver while mail
// flows. The receivers are those of package contrib/lab/sink, which tests use directly.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/lmittmann/tint"

	"github.com/millrace/millrace/contrib/lab/sink"
)

type options struct {
	Preset   string        `help:"Ready scenario: ${presets}." default:"mixed" placeholder:"NAME"`
	Scenario string        `help:"Scenario file, in place of a preset." type:"existingfile" placeholder:"FILE"`
	Show     bool          `help:"Print the scenario and exit: a start for a file of your own."`
	Keys     bool          `help:"Print every key of a behaviour with its meaning and exit."`
	DNS      string        `help:"Address of the DNS server, UDP and TCP; port 0 takes a free one." name:"dns" default:"127.0.0.1:0" placeholder:"ADDR"`
	Port     uint16        `help:"Port of all SMTP receivers; 0 takes one free on all addresses." default:"0" placeholder:"PORT"`
	Control  string        `help:"Address of the HTTP control; \"off\" for none." default:"127.0.0.1:0" placeholder:"ADDR"`
	Ledger   string        `help:"Write the ledger to this file at exit, JSON, a record a line." type:"path" placeholder:"FILE"`
	Seed     uint64        `help:"Decides which recipients perm_share and temp_share hit." default:"1"`
	For      time.Duration `help:"Stop after this long; 0: at SIGINT or SIGTERM." default:"0" placeholder:"TIME"`
	Quiet    bool          `help:"No live statistics." short:"q"`
}

const description = `A fake internet for mail: a DNS server that knows some providers, and SMTP
receivers on 127.x.y.z for their hosts, with latency, limits, penalties and
faults. Point a sender's resolver and its port 25 at it, and see.

The first line on stdout has the addresses, space-separated, for scripts:

    dns=127.0.0.1:41053 port=40025 control=http://127.0.0.1:39991

then comes a line a second: messages accepted, and for each host with traffic
its open connections, messages in that second, connections turned away.

Try it:

    millrace-sink --preset ideal --dns 127.0.0.1:5353 --port 2525 &
    dig -p 5353 @127.0.0.1 mx example.org
    smtp-source -d -s 20 -m 20000 -l 4096 -t you@example.org 127.16.0.1:2525

Change it while it runs, a provider or one host, and look inside:

    curl -d 'rtt = "200ms"' $control/behaviour/google
    curl -d 'down = true' $control/behaviour/mx1.google.test
    curl $control/stats
    curl $control/ledger

A scenario is TOML (--show prints one, --keys explains what it may say):

    [[provider]]
    name = "google"
    domains = ["gmail.test", "g*.example"]
    hosts = 5
    [provider.behaviour]
    rtt = "30ms"
    host_connections = 20`

func main() {
	var o options
	parser, err := newParser(&o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, err = parser.Parse(os.Args[1:])
	parser.FatalIfErrorf(err)
	log := slog.New(tint.NewTextHandler(os.Stderr, &tint.Options{TimeFormat: time.TimeOnly}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx, os.Stdout, log); err != nil {
		log.Error("stopped", "err", err)
		os.Exit(1)
	}
}

func newParser(o *options, more ...kong.Option) (*kong.Kong, error) {
	return kong.New(o, append([]kong.Option{
		kong.Name("millrace-sink"), kong.Description(description),
		kong.Vars{"presets": strings.Join(sink.Presets(), ", ")},
		kong.Help(printHelp), kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 100}),
	}, more...)...)
}

// printHelp keeps the description as it is written; kong would fill its lines.
func printHelp(o kong.HelpOptions, ctx *kong.Context) error {
	fmt.Fprintf(ctx.Stdout, "%s\n\n", description)
	ctx.Model.Help = ""
	return kong.DefaultHelpPrinter(o, ctx)
}

func (o *options) run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	if o.Keys {
		return printKeys(out)
	}
	text, err := o.scenario()
	if err != nil {
		return err
	}
	if o.Show {
		_, err := io.WriteString(out, text)
		return err
	}
	scenario, err := sink.ParseScenario(text)
	if err != nil {
		return err
	}
	n, err := sink.New(sink.Options{Logger: log, Port: o.Port, DNS: o.DNS, Seed: o.Seed})
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.AddScenario(scenario); err != nil {
		return err
	}
	addresses := fmt.Sprintf("dns=%s port=%d", n.DNSAddr(), n.Port())
	if o.Control != "off" {
		stop, addr, err := serve(o.Control, n.Handler(), log)
		if err != nil {
			return err
		}
		defer stop()
		addresses += " control=http://" + addr
	}
	fmt.Fprintln(out, addresses)
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	if o.Quiet {
		<-ctx.Done()
	} else {
		watch(ctx, out, n)
	}
	n.Close() // so that the ledger is complete
	if o.Ledger != "" {
		return writeLedger(o.Ledger, n)
	}
	return nil
}

func (o *options) scenario() (string, error) {
	if o.Scenario == "" {
		return sink.PresetText(o.Preset)
	}
	text, err := os.ReadFile(o.Scenario)
	return string(text), err
}

func printKeys(out io.Writer) error {
	for _, k := range sink.Keys() {
		if _, err := fmt.Fprintf(out, "%-21s %s\n", k[0], k[1]); err != nil {
			return err
		}
	}
	return nil
}

// serve runs the control until stop is called.
func serve(addr string, h http.Handler, log *slog.Logger) (stop func(), bound string, err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, "", fmt.Errorf("control: %w", err)
	}
	server := &http.Server{Handler: h, ReadTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control stopped", "err", err)
		}
	}()
	return func() { server.Close(); <-ended }, ln.Addr().String(), nil
}

func writeLedger(name string, n *sink.Internet) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if err := n.Ledger().WriteJSON(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
