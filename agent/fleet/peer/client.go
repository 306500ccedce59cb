package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxIdle is how many connections to a node are kept for the next request.
	maxIdle = 4
	// connectWithin bounds a connect with its handshake.
	connectWithin = 5 * time.Second
	// callWithin is the deadline of a request whose context has none.
	callWithin = time.Minute
	// maxAnswer bounds the answer that Call reads, in octets.
	maxAnswer = 16 << 20
)

// ErrNoMember says that a node is not of the fleet, so it is not called.
var ErrNoMember = errors.New("is no member of the fleet")

// ErrNoAddress says that a node does not listen for others, or nobody knows where.
var ErrNoAddress = errors.New("has no address for other nodes; remedy: set listen, and advertise if others reach it by another address, in its [fleet]")

// StatusError is an answer to Call that is not 2xx.
type StatusError struct {
	Node string
	Code int    // of HTTP
	Text string // the answer's first line
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("node %s: %d %s: %s", e.Node, e.Code, http.StatusText(e.Code), e.Text)
}

// ClientOptions are what a Client works with. None may be missing.
type ClientOptions struct {
	Identity *Identity
	// Member says whether a node is a member now, and Address where it listens, host:port, ""
	// if that is not known. Neither must wait.
	Member  func(node string) bool
	Address func(node string) string
}

// Client asks other nodes. Its methods may be called by many goroutines; connections are kept
// for the next request.
type Client struct {
	o    ClientOptions
	http *http.Client
}

// NewClient returns a Client.
func NewClient(o ClientOptions) *Client {
	c := &Client{o: o}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialTLSContext:      c.dial,
			MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleFor * 3 / 4, // before the server ends it
			MaxResponseHeaderBytes: maxHead, ResponseHeaderTimeout: callWithin,
			DisableCompression: true, // nothing that swells
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Close gives idle connections up.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do sends a request to a node; path begins with / and may have a query. The answer is
// returned whatever its status; its body is not bounded, ends with ctx, and must be closed.
// Where ctx has no deadline it is a minute. ErrNoMember and ErrNoAddress say that nothing was
// sent.
func (c *Client) Do(ctx context.Context, node, method, path string, body io.Reader) (*http.Response, error) {
	if !c.o.Member(node) {
		return nil, fmt.Errorf("node %s %w", node, ErrNoMember)
	}
	if c.o.Address(node) == "" {
		return nil, fmt.Errorf("node %s %w", node, ErrNoAddress)
	}
	cancel := func() {}
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeout(ctx, callWithin)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+node+path, body)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("node %s: %w", node, plain(err))
	}
	resp.Body = ending{resp.Body, cancel}
	return resp, nil
}

// Call sends in as JSON, unless it is nil, and reads the answer into out, unless that is nil.
// An answer that is not 2xx is a StatusError.
func (c *Client) Call(ctx context.Context, node, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.Do(ctx, node, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return Refusal(node, resp)
	}
	if out == nil {
		io.Copy(io.Discard, io.LimitReader(resp.Body, maxHead)) // for the connection to serve again
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	return nil
}

// Refusal is the StatusError of an answer.
func Refusal(node string, resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return &StatusError{node, resp.StatusCode, line}
}

// plain is an error without the method and address that http has put before it.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// dial connects to the node that addr names, and has it show that it is that node.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	node, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ours, err := c.o.Identity.current()
	if ours == nil {
		return nil, err
	}
	at := c.o.Address(node)
	if at == "" {
		return nil, ErrNoAddress
	}
	ctx, done := context.WithTimeout(ctx, connectWithin)
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, at)
	if err != nil {
		return nil, err
	}
	fleet := c.o.Identity.files.Fleet
	t := tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: hello(node, fleet), NextProtos: []string{"http/1.1"},
		Certificates: []tls.Certificate{ours.cert},
		// The name in the certificate is that of the node, without the fleet: it is verified here.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			shown, err := ours.nodeOf(cs.PeerCertificates, x509.ExtKeyUsageServerAuth, fleet, c.o.Member)
			if err == nil && shown != node {
				err = fmt.Errorf("%s is the node %s", at, shown)
			}
			return err
		},
	})
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return writer{t}, nil
}

// writer is a connection of which each write has a deadline; reads end with their request.
type writer struct{ net.Conn }

func (w writer) Write(b []byte) (int, error) {
	w.SetWriteDeadline(time.Now().Add(stall))
	return w.Conn.Write(b)
}

// ending is a body whose end ends its context.
type ending struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (e ending) Close() error {
	defer e.cancel()
	return e.ReadCloser.Close()
}
