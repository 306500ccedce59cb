// Command demo shows the whole of Millrace on one machine in half a minute:
//
//	make demo
//	millrace demo
//
// It starts a real Postfix of its own, both daemons, and a fake internet of mail
// providers with limits they do not announce. It sends a newsletter and, in between,
// password resets; shows what happens while it happens; and at the end holds the
// injector's ledger against the receivers'.
//
// The verb "millrace demo" starts this program, so that the admin's command itself
// carries nothing of the lab. The demo runs in namespaces of its own (lab.Isolate):
// nothing can leave the machine. At its end it removes everything it made.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/rig"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// options say how much the demo sends.
type options struct {
	messages    int // a tenth of them transactional
	connections int // of the injector
	timeout     time.Duration
	out         io.Writer
}

// errFailed says that the ledgers do not agree, or mail went the wrong way.
var errFailed = errors.New("the demo's ledgers do not agree")

func main() {
	o := options{out: os.Stdout}
	flag.IntVar(&o.messages, "messages", 5000, "how many messages, a tenth of them transactional")
	flag.IntVar(&o.connections, "connections", 20, "over how many connections they are injected")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Minute, "give up after this long")
	flag.Parse()
	err := lab.Isolate()
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "millrace demo:", err)
		os.Exit(1)
	}
}

// providers is the demo's internet. None of them announces its limits; the
// agent's ceilings (in queues, below) are higher on purpose.
var providers = []sink.Provider{
	{Name: "google", Domains: []string{"gmail.test"}, Hosts: 5, HostName: "mx%d.google.test",
		Behaviour: sink.Behaviour{RTT: 30 * time.Millisecond, AcceptTime: 20 * time.Millisecond, HostConnections: 8, OneDomain: true}},
	{Name: "outlook", Domains: []string{"outlook.test"}, Hosts: 2, HostName: "mx%d.outlook.test",
		Behaviour: sink.Behaviour{RTT: 80 * time.Millisecond, AcceptTime: 40 * time.Millisecond, HostConnections: 15, ReleaseLag: 100 * time.Millisecond}},
	{Name: "yahoo", Domains: []string{"yahoo.test"}, Hosts: 3, HostName: "mx%d.yahoo.test",
		Behaviour: sink.Behaviour{RTT: 50 * time.Millisecond, HostConnections: 10, MaxMessages: 20}},
	{Name: "others", Domains: []string{"d*.example"}, Hosts: 4, HostName: "mx%d.others.test",
		Behaviour: sink.Behaviour{RTT: 40 * time.Millisecond}},
}

const queues = `
[[queue]]
name = "google"
domains = ["gmail.test"]
mx = ["*.google.test"]
max_sessions = 50

[[queue]]
name = "outlook"
domains = ["outlook.test"]
mx = ["*.outlook.test"]
max_sessions = 40

[[queue]]
name = "yahoo"
domains = ["yahoo.test"]
mx = ["*.yahoo.test"]
max_sessions = 40
max_messages_per_connection = 20
`

// transactional says whether message i is a password reset: one in ten.
func transactional(i int) bool { return i%10 == 7 }

// message makes message i; most go to the big providers, as newsletters do.
func message(i int) *inject.Message {
	domain := [...]string{"gmail.test", "gmail.test", "gmail.test", "outlook.test", "outlook.test", "yahoo.test"}
	to := fmt.Sprintf("user%d@", i)
	if n := i / 10 % 8; n < len(domain) {
		to += domain[n]
	} else {
		to += fmt.Sprintf("d%d.example", i%200)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: demo-%d\r\n", ledger.IDHeader, i)
	if transactional(i) {
		fmt.Fprintf(&b, "From: Accounts <accounts@shop.test>\r\nTo: <%s>\r\nSubject: Your password reset\r\nDate: %s\r\nMessage-ID: <%d@shop.test>\r\n\r\n",
			to, time.Now().Format(time.RFC1123Z), i)
		fmt.Fprintf(&b, "Your code is %06d.\r\n", i*7919%1_000_000)
		return &inject.Message{Sender: "accounts@shop.test", Recipients: []string{to}, Content: b.Bytes()}
	}
	fmt.Fprintf(&b, "From: Shop News <news@shop.test>\r\nTo: <%s>\r\nSubject: Offers of the week\r\nDate: %s\r\nMessage-ID: <%d@shop.test>\r\n"+
		"List-Id: Shop News <news.shop.test>\r\nList-Unsubscribe: <https://shop.test/u/%d>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n",
		to, time.Now().Format(time.RFC1123Z), i, i)
	for n := 0; b.Len() < 6000; n++ {
		fmt.Fprintf(&b, "Offer %d of this week, chosen for you, reader %d: buy one, get one.\r\n", n, i)
	}
	return &inject.Message{Sender: fmt.Sprintf("news+%d@shop.test", i), Recipients: []string{to}, Content: b.Bytes()}
}

// scene is what runs during a demo.
type scene struct {
	rig.Rig
	diverted atomic.Int64 // messages that came by Millrace
	crossed  atomic.Int64 // messages that went the wrong way
}

// run runs the demo. The error is errFailed if a message was lost, doubled,
// altered or went the wrong way.
func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	s := &scene{}
	defer func() { err = errors.Join(err, s.Close()) }()
	fmt.Fprintln(o.out, "Starting a private Postfix, millrace-milter, millrace-agent, and an internet of", len(providers), "providers ...")
	if err := s.start(ctx); err != nil {
		return err
	}
	in := &inject.Injector{Addr: s.Postfix.SMTPAddr(), Connections: o.connections, PerConnection: 100, Ledger: &ledger.Ledger{}}
	fmt.Fprintf(o.out, "Sending %d messages over %d connections; one in ten is a password reset.\n\n", o.messages, o.connections)
	var injecting sync.WaitGroup
	var sent *inject.Result
	injecting.Go(func() { sent, err = in.Run(ctx, o.messages, message) })
	peak := s.watch(ctx, o, in.Ledger)
	injecting.Wait()
	if err != nil {
		return fmt.Errorf("the injector was stopped: %w", err)
	}
	if sent.Messages != o.messages {
		return fmt.Errorf("only %d of %d messages were taken by Postfix: %w", sent.Messages, o.messages, sent.Err)
	}
	return s.account(o, in.Ledger, peak)
}

func (s *scene) start(ctx context.Context) error {
	if err := s.StartInternet(sink.Options{DNS: lab.Resolver + ":53", Message: s.arrived}, providers...); err != nil {
		return err
	}
	// The providers' limits hold for Postfix's own connections, too. What they turn
	// away waits five minutes in Postfix's default configuration: too long for a demo.
	err := s.StartPostfix(ctx, lab.PostfixOptions{
		Milter: lab.RelativeSocket,
		Extra:  map[string]string{"minimal_backoff_time": "2s", "maximal_backoff_time": "2s", "queue_run_delay": "2s"},
	})
	if err != nil {
		return err
	}
	return s.StartMillrace(ctx, lab.MillraceOptions{Extra: queues})
}

// arrived notes by which way a message came: newsletters have our trace on top.
func (s *scene) arrived(m *sink.Message) {
	top, _, _ := bytes.Cut(m.Content, []byte(ledger.IDHeader+":"))
	ours := bytes.Contains(top, []byte("(Millrace)"))
	if ours {
		s.diverted.Add(1)
	}
	if bulk := bytes.Contains(m.Content, []byte("\r\nList-Id:")); bulk != ours {
		s.crossed.Add(1)
	}
}

// watch prints a line twice a second until all mail has arrived or ctx ends,
// and returns the most sessions seen at each site.
func (s *scene) watch(ctx context.Context, o options, sent *ledger.Ledger) map[string]control.Site {
	client := control.NewClient(s.Millrace.Control())
	peak := make(map[string]control.Site)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, settled := 0, 0
	for n := 1; ; n++ {
		st, err := client.Status(ctx)
		if err != nil {
			st = &control.Status{}
		}
		for _, x := range st.Sites {
			if x.Sessions >= peak[x.Name].Sessions {
				peak[x.Name] = x
			}
		}
		arrived := s.Internet.Ledger().Messages()
		if done := arrived >= o.messages && st.Waiting+st.Active+st.Deferred == 0; n%5 == 0 || done {
			line := fmt.Sprintf("  taken by Postfix %5d   arrived %5d (%d by Millrace)   queued %4d   sessions %3d",
				sent.Messages(), arrived, s.diverted.Load(), st.Waiting+st.Active+st.Deferred, st.Sessions)
			fmt.Fprintln(o.out, line)
			if done {
				return peak
			}
		}
		// A message that goes missing must end the demo as a failure, not as a hang.
		if arrived != last {
			last, settled = arrived, n
		} else if n-settled > 600 {
			fmt.Fprintln(o.out, "  nothing has arrived for a minute; giving up")
			return peak
		}
		select {
		case <-ctx.Done():
			return peak
		case <-tick.C:
		}
	}
}
