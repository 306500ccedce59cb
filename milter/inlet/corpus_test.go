package inlet_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
)

// odd is a message with peculiarities: sizes of all orders of magnitude, lines that begin with dots or
// are one, octets above 127 and of control, lines of the greatest length; some have a longer
// line or a NUL, which cannot leave, and keeps them with the host.
func odd(r *rand.Rand, id int) (content []byte, fit bool) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "X-ID: %d\r\nFrom: a@b.test\r\nMessage-ID: <%d@b.test>\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\n", id, id)
	for range r.IntN(5) {
		fmt.Fprintf(&b, "X-Odd:  folded,\r\n\t%s\r\n .dot\r\n", strings.Repeat("x", r.IntN(900)))
	}
	b.WriteString("\r\n")
	size, fit := b.Len()+int(math.Exp(r.Float64()*math.Log(2<<20))), true
	for b.Len() < size {
		n := r.IntN(200)
		switch r.IntN(12) {
		case 0:
			b.WriteString(".\r\n")
			continue
		case 1:
			b.WriteString("..")
		case 2:
			b.WriteString(".\t")
		case 3:
			n = 998
		case 4:
			n = 0
		}
		line := make([]byte, n)
		for i := range line {
			if line[i] = byte(r.Uint32()); line[i] == '\r' || line[i] == '\n' || line[i] == 0 {
				line[i] = '.'
			}
		}
		b.Write(line[:min(n, 996)])
		b.WriteString("\r\n")
	}
	switch r.IntN(25) {
	case 0:
		b.WriteString(strings.Repeat("long ", 200) + "\r\n")
		fit = false
	case 1:
		b.WriteString("\x00\r\n")
		fit = false
	}
	return b.Bytes(), fit
}

// byDATA and byBDAT are content as it goes over the wire.
func byDATA(content []byte) []byte {
	b := bytes.ReplaceAll(append([]byte("\r\n"), content...), []byte("\r\n."), []byte("\r\n.."))[2:]
	return append(b, ".\r\n"...)
}

// byBDAT cuts anywhere, within CRLF too; a chunk may be empty. It may leave the last CRLF out.
func byBDAT(r *rand.Rand, content []byte) (wire []byte, chunks int) {
	if r.IntN(3) == 0 && !bytes.HasSuffix(content, []byte("\r\n\r\n")) {
		content = content[:len(content)-2]
	}
	for r.IntN(3) > 0 && len(content) > 0 {
		n := r.IntN(min(len(content), 1+r.IntN(200_000)) + 1)
		wire = append(fmt.Appendf(wire, "BDAT %d\r\n", n), content[:n]...)
		content = content[n:]
		chunks++
	}
	return append(fmt.Appendf(wire, "BDAT %d LAST\r\n", len(content)), content...), chunks + 1
}

// Every octet that clients send is in the spool, or with the host MTA.
func TestCorpusByteForByte(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const clients = 4
	var mu sync.Mutex
	spooled, passed := map[string][sha256.Size]byte{}, map[string]bool{}
	var all sync.WaitGroup
	for k := range clients {
		c := s.dial()
		c.SetDeadline(never)
		all.Go(func() {
			r := rand.New(rand.NewPCG(34, uint64(k)))
			c.hello()
			for sent, id := 0, k; sent < corpusSize/clients; id += clients {
				content, fit := odd(r, id)
				sent += len(content)
				mu.Lock()
				if fit {
					spooled[fmt.Sprint(id)] = sha256.Sum256(content)
				} else {
					passed[string(content)] = true
				}
				mu.Unlock()
				envelope := fmt.Sprintf("MAIL FROM:<n%d@b.test>\r\nRCPT TO:<c@d.test>\r\n", id)
				replies := []string{"250", "250"}
				if r.IntN(2) == 0 {
					// The envelope with DATA, and the content with the next command behind it.
					c.send(envelope + "DATA\r\n")
					c.wants(append(replies, "354")...)
					c.pieces(r, append(byDATA(content), "NOOP\r\n"...))
					replies = []string{"250 2.", "250 2.0.0 Ok"}
				} else {
					wire, chunks := byBDAT(r, content)
					for range chunks {
						replies = append(replies, "250")
					}
					c.pieces(r, append(append([]byte(envelope), wire...), "NOOP\r\n"...))
					replies = append(replies, "250 2.0.0 Ok")
				}
				c.wants(replies...)
			}
			c.send("QUIT\r\n")
			c.wants("221")
		})
	}
	all.Wait()
	s.stop()
	store, err := spool.OpenStore(s.dir, spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	err = store.Load(func(id spool.ID, e *spool.Envelope, _ []spool.State) error {
		c, err := store.Open(id)
		if err != nil {
			return err
		}
		defer c.Close()
		h, n := sha256.New(), strings.TrimSuffix(strings.TrimPrefix(e.Sender, "n"), "@b.test")
		if _, err := io.Copy(h, c); err != nil {
			return err
		}
		if want, ok := spooled[n]; !ok || want != [sha256.Size]byte(h.Sum(nil)) {
			t.Errorf("message %s of %d octets is another, or twice there", n, e.Size)
		}
		delete(spooled, n)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if len(spooled) > 0 {
		t.Errorf("%d messages are missing in the spool", len(spooled))
	}
	for _, m := range s.mta.all() {
		_, content, _ := strings.Cut(m, "\n\n")
		content = content[strings.Index(content, "X-ID: "):]
		if !passed[content] {
			t.Errorf("the MTA has a message of %d octets that nobody sent: %.80q", len(content), content)
		}
		delete(passed, content)
	}
	if len(passed) > 0 {
		t.Errorf("%d messages are missing at the MTA", len(passed))
	}
}

// pieces sends as a network may: in pieces of any size.
func (c *client) pieces(r *rand.Rand, b []byte) {
	c.t.Helper()
	for len(b) > 0 {
		n := len(b)
		if r.IntN(4) > 0 {
			n = min(n, 1+r.IntN(100_000))
		}
		c.send(string(b[:n]))
		b = b[n:]
	}
}

// However many clients come, max_connections are served, with some kilobytes each while they
// are silent, and all the others hear why not. No other test runs meanwhile: memory is measured.
func TestCrowdIsBounded(t *testing.T) {
	const served = crowd * 4 / 10
	s := serve(t, func(c *config.Config) { c.Inlet.MaxConnections = served })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	clients := make([]*client, 0, crowd)
	for i := range crowd {
		c := s.dial()
		c.SetDeadline(never)
		clients = append(clients, c)
		if i < served {
			c.wants("220")
			c.send("MAIL ") // half a command, and then nothing
		} else {
			c.wants("421 4.7.0")
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	// The clients are of this process, too.
	if used := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / crowd; used > 24<<10 {
		t.Errorf("%d octets for each client", used)
	} else {
		t.Logf("%d octets for each of %d clients, both ends together", used, crowd)
	}
	if n := s.server.Counts().Turned; n != crowd-served {
		t.Errorf("%d turned away", n)
	}
	for _, c := range clients {
		c.Close()
	}
	s.stop()
}
