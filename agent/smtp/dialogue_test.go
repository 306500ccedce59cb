package smtp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A dialogue file has what the client does and expects, a line of three
// hyphens, and what the server does and expects. # begins a comment.
//
// Client:
//
//	timeouts 50ms          every wait; default: very long
//	tls required           Options.TLS; with " implicit" Options.ImplicitTLS too
//	auth USER PASSWORD     Options.Auth
//	ignore KEYWORD,...     Options.Ignore
//	elsewhere              the peer's address is none of loopback, as far as Dial knows
//	dial                   the connection comes up
//	send SENDER RCPT...    one transaction; "" is the null sender; then, each on its line:
//	  size N | 8bit | taken | args MAIL-ARG... | rargs RCPT-ARG... | body "quoted" | repeat N | prefix "quoted" | broken
//	want RCPT = FATE STAGE: REPLY    as the result prints; " +dsn" after it if the peer took DSN
//	fails STAGE: TEXT      the error of the dial or send before; without it there is none
//	as NAME                and errors.Is that sentinel
//	chunk                  and Error.Chunk is set
//	group                  and Error.Group is set
//	check                  the idle connection is fine
//	quit
//
// Server:
//
//	S: line       sent with CRLF      Q: "quoted"   sent as it is
//	N: 12 line    sent 12 times       F: 12 octets  sent 12 times, without line ends
//	C: line       must come           B: "quoted"   must come, before the final dot
//	K: "quoted"   must come, as it is
//	T: line       sent after a TLS record has come
//	tls           handshake; the rest is said through TLS
//	close         reset               wait          until the client has closed
//
// Server lines that follow one another are sent in one write.
type dialogue struct {
	client, server []string
}

func readDialogue(t *testing.T, path string) dialogue {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d dialogue
	into := &d.client
	for l := range strings.Lines(string(b)) {
		l = strings.TrimRight(l, "\n")
		switch {
		case l == "---":
			into = &d.server
		case strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "#"):
			*into = append(*into, l)
		}
	}
	if len(d.client) == 0 || len(d.server) == 0 {
		t.Fatalf("%s: a part is missing", path)
	}
	return d
}

func TestDialogues(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			d := readDialogue(t, f)
			played := make(chan error, 1)
			id := newIdentity(t)
			addr := listen(t, func(nc net.Conn) { played <- play(nc, d.server, id.server) })
			follow(t, addr.String(), d.client, id.client)
			if err := <-played; err != nil {
				t.Errorf("server: %v", err)
			}
		})
	}
}

// play is the server's side.
func play(nc net.Conn, script []string, conf *tls.Config) error {
	tcp := nc.(*net.TCPConn)
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	in := bufio.NewReader(nc)
	var out bytes.Buffer
	flush := func() error {
		if out.Len() == 0 {
			return nil
		}
		_, err := nc.Write(out.Bytes())
		out.Reset()
		return err
	}
	for _, l := range script {
		op, arg, _ := strings.Cut(l, " ")
		switch op {
		case "S:":
			out.WriteString(arg + "\r\n")
			continue
		case "Q:":
			s, err := strconv.Unquote(arg)
			if err != nil {
				return fmt.Errorf("%s: %w", l, err)
			}
			out.WriteString(s)
			continue
		case "N:", "F:":
			n, text, _ := strings.Cut(arg, " ")
			count, err := strconv.Atoi(n)
			if err != nil {
				return fmt.Errorf("%s: %w", l, err)
			}
			if op == "N:" {
				text += "\r\n"
			}
			out.WriteString(strings.Repeat(text, count))
			continue
		}
		if err := flush(); err != nil && op != "wait" {
			return fmt.Errorf("before %q: %w", l, err)
		}
		switch op {
		case "tls":
			tc := tls.Server(nc, conf)
			if err := tc.Handshake(); err != nil {
				return err
			}
			nc, in = tc, bufio.NewReader(tc)
		case "C:":
			got, err := in.ReadString('\n')
			if got != arg+"\r\n" {
				return fmt.Errorf("got %q, %v; want %q", got, err, arg)
			}
		case "B:", "K:":
			want, err := strconv.Unquote(arg)
			if err != nil {
				return fmt.Errorf("%s: %w", l, err)
			}
			if op == "B:" {
				want += ".\r\n"
			}
			got := make([]byte, len(want))
			n, err := io.ReadFull(in, got)
			if string(got[:n]) != want {
				return fmt.Errorf("content %q, %v; want %q", got[:n], err, want)
			}
		case "wait":
			// A reset is also an end: the client may close with octets unread.
			if b, err := in.ReadByte(); err == nil {
				return fmt.Errorf("the client said %q instead of closing", b)
			} else if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("the client did not close")
			}
		case "T:": // a TLS record, answered in the clear
			head := make([]byte, 5)
			if _, err := io.ReadFull(in, head); err != nil {
				return err
			}
			if _, err := in.Discard(int(head[3])<<8 | int(head[4])); err != nil {
				return err
			}
			out.WriteString(arg + "\r\n")
		case "close":
			return nc.Close()
		case "reset":
			if err := tcp.SetLinger(0); err != nil {
				return err
			}
			return tcp.Close()
		default:
			return fmt.Errorf("unknown line %q", l)
		}
	}
	return flush()
}

// follow is the client's side.
func follow(t *testing.T, addr string, script []string, conf *tls.Config) {
	o := Options{Hello: "client.example", Timeouts: patient(), ServerName: "mx.example", TLSConfig: conf}
	peer := anywhere
	o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	var (
		c    *Conn
		err  error
		seen = true // err was looked at
		tx   *Tx
		res  Result
	)
	broken := false
	send := func() {
		if tx == nil || res.Recipients != nil {
			return
		}
		if broken {
			tx.Content = io.MultiReader(tx.Content, failing{})
		}
		res, err = c.Send(t.Context(), tx)
		seen = false
	}
	settled := func() {
		send()
		if !seen && err != nil {
			t.Errorf("error: %v", err)
		}
		seen, tx, res, broken = true, nil, Result{}, false
	}
	defer func() {
		settled()
		if c != nil {
			c.Close()
		}
	}()
	for _, l := range script {
		op, arg, _ := strings.Cut(strings.TrimSpace(l), " ")
		quoted := func() string {
			s, err := strconv.Unquote(arg)
			if err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			return s
		}
		number := func() int {
			n, err := strconv.Atoi(arg)
			if err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			return n
		}
		switch op {
		case "timeouts":
			d, err := time.ParseDuration(arg)
			if err != nil {
				t.Fatal(err)
			}
			o.Timeouts = Timeouts{
				Connect: patience, Greeting: d, Hello: d, Mail: d, Rcpt: d,
				DataStart: d, DataBlock: d, DataEnd: d, Quit: d,
			}
		case "tls":
			arg, o.ImplicitTLS = strings.CutSuffix(arg, " implicit")
			o.TLS = map[string]Level{"opportunistic": Opportunistic, "required": Required, "verify": Verify}[arg]
			if o.TLS == None {
				t.Fatalf("%q", l)
			}
		case "auth":
			user, password, _ := strings.Cut(arg, " ")
			o.Auth = &Auth{User: user, Password: password}
		case "ignore":
			o.Ignore = strings.Split(arg, ",")
		case "elsewhere":
			peer = netip.MustParseAddrPort("192.0.2.1:25")
		case "dial":
			c, err = Dial(t.Context(), peer, o)
			seen = false
		case "send":
			settled()
			f := strings.Fields(arg)
			if f[0] == `""` {
				f[0] = ""
			}
			for i := range f { // so that files can say what cannot be typed
				if strings.HasPrefix(f[i], `"`) {
					if f[i], err = strconv.Unquote(f[i]); err != nil {
						t.Fatalf("%s: %v", l, err)
					}
				}
			}
			tx = message(f[0], f[1:]...)
		case "size":
			tx.Size = int64(number())
		case "taken":
			tx.AsTaken = true
		case "8bit":
			tx.EightBit = true
		case "args":
			tx.Args = strings.Fields(arg)
		case "rargs":
			for i := range tx.Recipients {
				tx.Recipients[i].Args = strings.Fields(arg)
			}
		case "body":
			tx.Content = strings.NewReader(quoted())
		case "repeat":
			tx.Content = strings.NewReader(strings.Repeat("0123456789abcdef0123456789abcdef\r\n", number()))
		case "prefix":
			tx.Prefix = []byte(quoted())
		case "broken":
			broken = true
		case "want":
			send()
			checkFate(t, tx, res, arg)
		case "fails":
			send()
			seen = true
			if err == nil || !strings.HasPrefix(err.Error(), arg) {
				t.Errorf("error %v, want %s", err, arg)
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%T is no *Error", err)
			}
			if c != nil && c.Check() == nil {
				t.Error("the connection is still open")
			}
		case "as":
			if want := sentinel(arg); want == nil || !errors.Is(err, want) {
				t.Errorf("error %v, want %s", err, arg)
			}
		case "chunk":
			if e, ok := errors.AsType[*Error](err); !ok || !e.Chunk {
				t.Errorf("%v does not blame BDAT", err)
			}
		case "group":
			if e, ok := errors.AsType[*Error](err); !ok || !e.Group {
				t.Errorf("%v does not blame the group", err)
			}
		case "check":
			settled()
			if err := c.Check(); err != nil {
				t.Errorf("check: %v", err)
			}
		case "quit":
			settled()
			c.Quit(t.Context())
		default:
			t.Fatalf("unknown line %q", l)
		}
	}
}

func checkFate(t *testing.T, tx *Tx, res Result, want string) {
	t.Helper()
	rcpt, want, _ := strings.Cut(want, " = ")
	if s, err := strconv.Unquote(rcpt); err == nil {
		rcpt = s
	}
	for i, r := range tx.Recipients {
		if r.Address != rcpt {
			continue
		}
		o := res.Recipients[i]
		got := o.Fate.String() + " " + o.Stage.String()
		if o.Reply.Code != 0 {
			got += ": " + o.Reply.String()
		}
		if o.Err != nil {
			got = o.Fate.String() + ": " + o.Err.Error()
		}
		if o.DSNTaken {
			got += " +dsn"
		}
		if got != want {
			t.Errorf("%s: %s\nwant %s", rcpt, got, want)
		}
		return
	}
	t.Errorf("no recipient %q", rcpt)
}

func sentinel(name string) error {
	return map[string]error{
		"EOF": io.EOF, "timeout": os.ErrDeadlineExceeded, "malformed": ErrMalformedReply, "toolong": ErrReplyTooLong,
		"outofturn": ErrOutOfTurn, "nochunking": ErrNoChunking, "noauth": ErrNoAuth, "authinclear": ErrAuthInClear, "notls": ErrNoTLS, "content": ErrContent, "broken": errBroken,
	}[name]
}

var errBroken = errors.New("disk on fire")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }
