package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutSession = `One warm session, one message of %d KB after the other, %d of them. Each client is a process of its own
that does nothing else; the receiver is the same for all. *agent/smtp* is Millrace's client, with DATA and, where the receiver
offers CHUNKING, with BDAT; *go-smtp* is the client of that library. CPU time and allocations are those of the client's
process between the first message and the last. The last table is one session %v away from its receiver, where flights
count and nothing else.`

// clients are the variants.
func clients() []sessionClient {
	return []sessionClient{
		{name: "agent/smtp", ours: true},
		{name: "agent/smtp, BDAT", ours: true, chunking: true},
		{name: "go-smtp"},
		{name: "agent/smtp, TLS", ours: true, tls: true},
		{name: "agent/smtp, BDAT, TLS", ours: true, chunking: true, tls: true},
		{name: "go-smtp, TLS", tls: true},
	}
}

type sessionClient struct {
	name          string
	ours          bool // or go-smtp's
	chunking, tls bool // what the receiver offers
}

// spent is what a message cost a client.
type spent struct {
	CPU     float64 // seconds
	Allocs  float64
	Bytes   float64 // allocated
	Elapsed float64 // seconds
}

func (s spent) String() string {
	return fmt.Sprintf("%s us CPU, %s allocations of %s octets, %s/s", micros(s.CPU), figure(s.Allocs), count(s.Bytes), count(1/s.Elapsed))
}

func figure(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// farAway is the round trip of the last table.
const farAway = 50 * time.Millisecond

// sessions measures a warm session beside go-smtp's client.
func sessions(ctx context.Context, b *bench) ([]section, error) {
	size := common
	s := section{
		title: "A warm session",
		about: fmt.Sprintf(aboutSession, size>>10, b.messages, farAway),
		tables: []table{
			{title: "A message", columns: []string{"client", "CPU us", "allocations", "octets allocated", "messages/s"}},
			{title: fmt.Sprintf("A message at %v", farAway), columns: []string{"client", "flights", "messages/s"}},
		},
	}
	list := clients()
	near, err := b.warm(ctx, "Session", list, 0, b.messages)
	if err != nil {
		return nil, err
	}
	cpu := func(v spent) float64 { return v.CPU }
	rate := func(v spent) float64 { return 1 / v.Elapsed }
	for i, c := range list {
		s.tables[0].rows = append(s.tables[0].rows, []string{c.name, over(near[i], cpu).cell(micros),
			over(near[i], func(v spent) float64 { return v.Allocs }).cell(figure),
			over(near[i], func(v spent) float64 { return v.Bytes }).cell(count), over(near[i], rate).cell(count)})
	}
	far, err := b.warm(ctx, "Session far away", list[:3], farAway, max(4, b.messages/100))
	if err != nil {
		return nil, err
	}
	for i, c := range list[:3] {
		s.tables[1].rows = append(s.tables[1].rows, []string{c.name,
			over(far[i], func(v spent) float64 { return v.Elapsed / farAway.Seconds() }).cell(figure), over(far[i], rate).cell(figure)})
	}
	s.claims = []claim{
		{what: "CPU a message: agent/smtp / go-smtp", reach: "at most 1", got: over(near[0], cpu).to(over(near[2], cpu)), met: atMost(1)},
		{what: "CPU a message, TLS: agent/smtp / go-smtp", reach: "at most 1", got: over(near[3], cpu).to(over(near[5], cpu)), met: atMost(1)},
		{what: fmt.Sprintf("messages a second at %v: BDAT / DATA", farAway), reach: "at least 1.5", got: over(far[1], rate).to(over(far[0], rate)), met: atLeast(1.5)},
	}
	return []section{s}, nil
}

func (b *bench) warm(ctx context.Context, title string, list []sessionClient, rtt time.Duration, messages int) ([][]spent, error) {
	var variants []variant[spent]
	for _, c := range list {
		variants = append(variants, variant[spent]{c.name, func(ctx context.Context) (spent, error) {
			return c.measure(ctx, rtt, messages, common)
		}})
	}
	return alternate(ctx, b, title, variants, spent.String)
}

// measure starts a receiver and a client's process and gives what the latter found.
func (c sessionClient) measure(ctx context.Context, rtt time.Duration, messages, size int) (v spent, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	receiver, err := sink.New(sink.Options{})
	if err != nil {
		return v, err
	}
	defer receiver.Close()
	err = receiver.Add(sink.Provider{
		Name: "receiver", Domains: []string{"*"}, Hosts: 1,
		Behaviour: sink.Behaviour{RTT: rtt, StartTLS: c.tls, Chunking: c.chunking},
	})
	if err != nil {
		return v, err
	}
	self, err := os.Executable()
	if err != nil {
		return v, err
	}
	host := receiver.Stats().Hosts[0]
	job := sessionJob{
		Ours: c.ours, TLS: c.tls, Messages: messages, Size: size,
		Addr: net.JoinHostPort(host.Addr, strconv.Itoa(int(receiver.Port()))),
	}
	arg, err := json.Marshal(job)
	if err != nil {
		return v, err
	}
	cmd := exec.CommandContext(ctx, self, sessionCommand, string(arg))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return v, fmt.Errorf("client: %w", err)
	}
	if n := receiver.Stats().Hosts[0].Messages; int(n) != messages+1 {
		return v, fmt.Errorf("the receiver has %d messages, want %d", n, messages+1)
	}
	return v, json.Unmarshal(out, &v)
}

// sessionCommand is the first argument of this program as a client.
const sessionCommand = "session-client"

// sessionJob is the second, in JSON.
type sessionJob struct {
	Ours, TLS      bool
	Messages, Size int
	Addr           string
}

// asSessionClient says whether the program was started as a client.
func asSessionClient(args []string) (job sessionJob, ok bool) {
	if len(args) != 3 || args[1] != sessionCommand {
		return job, false
	}
	return job, json.Unmarshal([]byte(args[2]), &job) == nil
}

// run sends and writes what it spent to stdout.
func (j sessionJob) run() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := (&inject.Generator{Seed: 3, Domains: domains(1), MinSize: j.Size}).Message(0)
	send, quit, err := j.dial(ctx, m)
	if err != nil {
		return err
	}
	if err := send(); err != nil { // now it is warm
		return err
	}
	before, err := reading()
	if err != nil {
		return err
	}
	for range j.Messages {
		if err := send(); err != nil {
			return err
		}
	}
	after, err := reading()
	if err != nil {
		return err
	}
	if err := quit(); err != nil {
		return err
	}
	n := float64(j.Messages)
	return json.NewEncoder(os.Stdout).Encode(spent{
		CPU: (after.CPU - before.CPU) / n, Allocs: (after.Allocs - before.Allocs) / n,
		Bytes: (after.Bytes - before.Bytes) / n, Elapsed: (after.Elapsed - before.Elapsed) / n,
	})
}

// reading is what this process has spent so far.
func reading() (spent, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return spent{}, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return spent{
		CPU:    time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds(),
		Allocs: float64(m.Mallocs), Bytes: float64(m.TotalAlloc),
		Elapsed: time.Duration(time.Now().UnixNano()).Seconds(),
	}, nil
}

// dial connects and gives a function that sends the message once more.
func (j sessionJob) dial(ctx context.Context, m *inject.Message) (send, quit func() error, err error) {
	conf := &tls.Config{InsecureSkipVerify: true}
	if !j.Ours {
		return j.dialOther(m, conf)
	}
	addr, err := netip.ParseAddrPort(j.Addr)
	if err != nil {
		return nil, nil, err
	}
	o := smtp.Options{Hello: "client.test", TLSConfig: conf}
	if j.TLS {
		o.TLS = smtp.Required
	}
	c, err := smtp.Dial(ctx, addr, o)
	if err != nil {
		return nil, nil, err
	}
	content := bytes.NewReader(nil)
	tx := &smtp.Tx{Sender: m.Sender, Size: int64(len(m.Content)), Content: content}
	for _, r := range m.Recipients {
		tx.Recipients = append(tx.Recipients, smtp.Rcpt{Address: r})
	}
	send = func() error {
		content.Reset(m.Content)
		res, err := c.Send(ctx, tx)
		for _, r := range res.Recipients {
			if r.Fate != smtp.Accepted {
				err = errors.Join(err, fmt.Errorf("%v: %v", r.Fate, r.Reply))
			}
		}
		return err
	}
	return send, func() error { c.Quit(ctx); return nil }, nil
}

// dialOther is dial for go-smtp's client.
func (j sessionJob) dialOther(m *inject.Message, conf *tls.Config) (send, quit func() error, err error) {
	var c *gosmtp.Client
	if j.TLS {
		c, err = gosmtp.DialStartTLS(j.Addr, conf)
	} else {
		c, err = gosmtp.Dial(j.Addr)
	}
	if err != nil {
		return nil, nil, err
	}
	return func() error { return c.SendMail(m.Sender, m.Recipients, bytes.NewReader(m.Content)) }, c.Quit, nil
}
