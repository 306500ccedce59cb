package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet/lease"
)

// How long the store may take. All of a lease's calls are short; a store that is slower is away.
const (
	connectIn = time.Second     // to each server, with TLS, login and ROLE
	answerIn  = 2 * time.Second // a call
)

// store is the connection to the fleet's store. One goroutine uses it.
type store struct {
	o      *config.Fleet
	script *redis.Script
	client *redis.Client // nil: there is no connection
	server string        // that it goes to
}

// Do has the store execute a call. After an error the connection is closed, and the next call
// begins with the first server.
func (s *store) Do(ctx context.Context, c *lease.Call) (*lease.Reply, error) {
	if s.client == nil {
		client, server, err := Connect(ctx, s.o)
		if err != nil {
			return nil, err
		}
		s.client, s.server = client, server
	}
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	v, err := s.script.Run(ctx, s.client, []string{c.Key()}, c.Args()...).Result()
	if err == nil {
		var r *lease.Reply
		if r, err = lease.ParseReply(v); err == nil {
			return r, nil
		}
	}
	err = fmt.Errorf("%s: %w", s.server, Plain(err))
	s.close()
	return nil, err
}

func (s *store) close() {
	if s.client != nil {
		s.client.Close() // all that it could say is that it was closed
		s.client, s.server = nil, ""
	}
}

// Connect returns a client of the first server that answers and is no replica, with one
// connection, and the server's address. The client sends nothing again by itself: what was not
// answered may have been executed.
func Connect(ctx context.Context, o *config.Fleet) (*redis.Client, string, error) {
	if o.StoreRefused != "" {
		return nil, "", errors.New(o.StoreRefused)
	}
	secure := storeTLS(o)
	silence()
	var all error
	for _, at := range o.Stores {
		c := redis.NewClient(options(o, at, secure))
		err := isPrimary(ctx, c)
		if err == nil {
			return c, at.Address, nil
		}
		c.Close()
		all = also(all, fmt.Errorf("%s: %w", at.Address, Plain(err)))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, "", all
}

// also adds an error to others, on one line.
func also(all, err error) error {
	if all == nil {
		return err
	}
	return fmt.Errorf("%w; %w", all, err)
}

// silent takes what the client library would write to standard error: its errors are returned, too.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

var silence = sync.OnceFunc(func() { redis.SetLogger(silent{}) })

func options(o *config.Fleet, at config.FleetStore, secure *tls.Config) *redis.Options {
	return &redis.Options{
		Addr: at.Address, Username: o.User, Password: o.Password, Protocol: 2, DisableIdentity: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: 1, ContextTimeoutEnabled: true,
		DialTimeout: connectIn, ReadTimeout: answerIn, WriteTimeout: answerIn,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, at, secure) },
	}
}

func dial(ctx context.Context, at config.FleetStore, secure *tls.Config) (net.Conn, error) {
	d := net.Dialer{Timeout: connectIn}
	conn, err := d.DialContext(ctx, "tcp", at.Address)
	if err != nil || !at.TLS {
		return &guard{Conn: conn}, err
	}
	own := secure.Clone()
	own.ServerName, _, _ = net.SplitHostPort(at.Address)
	t := tls.Client(conn, own)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return &guard{Conn: t}, nil
}

// Client returns a client with a few connections, for many goroutines; each goes to the first
// server that answers and is no replica. It connects when it is used.
func Client(o *config.Fleet) *redis.Client {
	silence()
	var first atomic.Int64 // the server among Stores that is tried first
	ropt := options(o, config.FleetStore{}, nil)
	ropt.PoolSize = 3
	ropt.ConnMaxLifetime = time.Minute // a primary that became a replica keeps its clients
	ropt.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
		if o.StoreRefused != "" {
			return nil, errors.New(o.StoreRefused)
		}
		secure := storeTLS(o)
		var all error
		for range o.Stores {
			at := o.Stores[int(first.Load())%len(o.Stores)]
			conn, err := dial(ctx, at, secure)
			if err == nil {
				return conn, nil
			}
			all = also(all, fmt.Errorf("%s: %w", at.Address, err))
			first.Add(1)
		}
		return nil, all
	}
	ropt.OnConnect = func(ctx context.Context, c *redis.Conn) error {
		err := isPrimary(ctx, c)
		if err != nil {
			first.Add(1)
		}
		return err
	}
	return redis.NewClient(ropt)
}

// errReplica is why a server is passed over.
var errReplica = errors.New("it is a replica")

// isPrimary says whether a server answers, and may be written to.
func isPrimary(ctx context.Context, c interface {
	Do(ctx context.Context, args ...any) *redis.Cmd
}) error {
	ctx, cancel := context.WithTimeout(ctx, connectIn)
	defer cancel()
	role, err := c.Do(ctx, "ROLE").Slice()
	switch {
	case err != nil:
		return err
	case len(role) == 0 || role[0] != "master":
		return errReplica
	}
	return nil
}

// storeTLS are the authorities that vouch for the store, and the certificate it is shown. Files are
// read anew for each connection, so that a certificate may be renewed. One that cannot be read is left
// out: fewer servers are trusted then, and those without TLS are asked as ever. Others say so.
func storeTLS(o *config.Fleet) *tls.Config {
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLSCAFile != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if text, err := os.ReadFile(o.TLSCAFile); err == nil {
			roots.AppendCertsFromPEM(text)
		}
		secure.RootCAs = roots
	}
	if o.TLSCertFile != "" && o.KeyRefused == "" {
		if pair, err := tls.LoadX509KeyPair(o.TLSCertFile, o.TLSKeyFile); err == nil {
			secure.Certificates = []tls.Certificate{pair}
		}
	}
	return secure
}

// Plain is an error in one line of bounded length, with its remedy: a server may say anything.
func Plain(err error) error {
	var refused redis.Error
	if !errors.As(err, &refused) {
		return err
	}
	text := refused.Error()
	hint := ""
	if strings.Contains(text, "user executing the script") {
		hint = "; remedy: " + ACLHint
	}
	switch word, _, _ := strings.Cut(text, " "); word {
	case "WRONGPASS", "NOAUTH":
		hint = "; remedy: write the user and the password of the store's ACL into user and password_file of [fleet]"
	case "NOPERM":
		hint = "; remedy: " + ACLHint
	case "READONLY", "MASTERDOWN":
		hint = "; remedy: list its primary among servers of [fleet]"
	case "NOREPLICAS":
		hint = "; remedy: bring its replica back, or see min-replicas-to-write of the store"
	}
	return errors.New(printable(text) + hint)
}
