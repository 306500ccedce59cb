package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// node is one host of the fleet: a machine with an agent. There is no MTA: the lab writes into
// the node's spool what a milter would have.
type node struct {
	name     string
	machine  *lab.Machine
	millrace *lab.Millrace
	clock    time.Duration // by how much its clock on the wall is ahead
	client   *control.Client
	writer   *spool.Writer
	programs string

	next  atomic.Int64 // number of the last message
	mu    sync.Mutex
	given map[string]int // messages by receiver
}

// peerPort is where nodes listen for each other.
const peerPort = 8892

// newNode makes a node; run starts it. Its fleet has ca as its authority; without ca it is of none.
func newNode(m *lab.Machine, dns string, clock, boot time.Duration, ca *selfsigned.Authority, servers string) (*node, error) {
	n := &node{name: m.Name, machine: m, clock: clock, given: make(map[string]int)}
	set := map[string]string{
		"hostname":                 strconv.Quote(n.name + ".fleet.test"),
		"agent.allow_destinations": `["10.71.0.0/24"]`,
		"handback.relay":           `"10.71.0.250:25"`, // nobody: nothing is handed back
		"milter.mode":              `"observe"`,
	}
	if ca != nil {
		set["fleet.name"] = `"lab"`
		set["fleet.node"] = strconv.Quote(n.name)
		set["fleet.servers"] = `["` + servers + `"]`
		set["fleet.listen"] = strconv.Quote(netip.AddrPortFrom(m.Addr, peerPort).String())
		dir, err := os.MkdirTemp("", "certificate-")
		if err != nil {
			return nil, err
		}
		pair, err := ca.Issue(selfsigned.Leaf{DNS: []string{n.name}})
		if err != nil {
			return nil, err
		}
		authority, cert, key, err := ca.Write(dir, n.name, pair)
		if err != nil {
			return nil, err
		}
		set["fleet.tls_ca_file"], set["fleet.tls_cert_file"], set["fleet.tls_key_file"] = strconv.Quote(authority), strconv.Quote(cert), strconv.Quote(key)
	}
	var err error
	if n.programs, err = lab.ProgramsAt(clock); err != nil {
		return nil, err
	}
	n.millrace, err = lab.NewMillrace(lab.MillraceOptions{
		Set: set, Extra: queues(ca != nil), DNS: dns, Machine: m, Boot: boot, Programs: n.programs,
	})
	if err != nil {
		return nil, err
	}
	n.client = control.NewClient(n.millrace.Control())
	n.writer, err = spool.OpenWriter(n.millrace.Spool(), spool.WriterOptions{})
	return n, err
}

// close ends the node and removes it.
func (n *node) close() error {
	var errs []error
	if n.writer != nil {
		errs = append(errs, n.writer.Close())
	}
	if n.client != nil {
		n.client.Close()
	}
	_ = n.millrace.Agent.Signal(syscall.SIGCONT) // of one that stands still, or does not run
	return errors.Join(append(errs, n.millrace.Close())...)
}

// command runs the admin's command on the node, and gives what it wrote.
func (n *node) command(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(n.programs, "millrace"), append([]string{"--config", n.millrace.Config()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.machine.Within(cmd.Run)
	said := strings.TrimSpace(out.String())
	if err != nil {
		lines := strings.Split(said, "\n") // the last one says what is wrong
		err = fmt.Errorf("%s: millrace %s: %w: %s", n.name, strings.Join(args, " "), err, lines[len(lines)-1])
	}
	return said, err
}

// queued is how many recipients wait at the node, or are being tried.
func (n *node) queued(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := n.client.Status(ctx)
	if err != nil {
		return 0, err
	}
	if st.Loading {
		return max(st.Queued(), 1), nil
	}
	return st.Queued(), nil
}

// give puts count messages for a receiver into the node's spool, as its milter would: the
// envelope is the node's, also its time, and each is written to the ledger of what was sent.
func (n *node) give(ctx context.Context, sent *ledger.Ledger, receiver string, count int) error {
	const writers = 8 // they share the spool's syncs
	var all sync.WaitGroup
	errs := make([]error, writers)
	var left atomic.Int64
	left.Store(int64(count))
	for k := range writers {
		all.Go(func() {
			for errs[k] == nil && left.Add(-1) >= 0 {
				errs[k] = n.giveOne(ctx, sent, receiver, n.next.Add(1))
			}
		})
	}
	all.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.given[receiver] += count
	return errors.Join(errs...)
}

// waiting is how many of the messages that it was given for a receiver have not come there.
func (n *node) waiting(t *traffic, receiver string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.given[receiver] - t.arrived(n.name, receiver)
}

// Who sends: one message in four is of mallory, whom a part stops.
const mallory, alice = "mallory", "alice"

func (n *node) giveOne(ctx context.Context, sent *ledger.Ledger, receiver string, number int64) error {
	user := alice
	if number%4 == 0 {
		user = mallory
	}
	id := fmt.Sprintf("%s-%s-%d", n.name, receiver, number)
	recipient := fmt.Sprintf("reader%d@%s.test", number, receiver)
	sender := fmt.Sprintf("%s@%s.fleet.test", user, n.name)
	content := fmt.Sprintf("%s: %s\r\nFrom: <%s>\r\nTo: <%s>\r\nSubject: News %d\r\nMessage-ID: <%s@fleet.test>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"+
		"List-Id: News <news.%s.fleet.test>\r\n\r\n%s\r\n", ledger.IDHeader, id, sender, recipient, number, id, n.name, strings.Repeat("Nothing new today. ", 40))
	var digest ledger.Digest
	digest.Reset()
	if _, err := io.WriteString(&digest, content); err != nil {
		return err
	}
	now := time.Now()
	r, err := n.writer.Append(ctx, &spool.Envelope{
		Sender: sender, Recipients: []spool.Recipient{{Address: recipient}}, Stream: "news." + user, Arrived: now.Add(n.clock),
		QueueID: fmt.Sprintf("Q%d", number), ClientName: "localhost", ClientAddr: "127.0.0.1", Helo: "list.test", Protocol: "ESMTPA", AuthUser: user, ByHost: n.name + ".fleet.test",
	}, strings.NewReader(content))
	if err == nil {
		err = r.Release()
	}
	if err != nil {
		return fmt.Errorf("give %s mail: %w", n.name, err)
	}
	own, sum := digest.Sum()
	sent.Add(&ledger.Message{ID: own, Sender: []byte(sender), Recipients: [][]byte{[]byte(recipient)}, Hash: sum, Time: now, Size: digest.Size()})
	return nil
}
