package deliver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
)

// A connect that failed is told by what happened, so that "no answer" is none.
func TestFailedConnectIsToldByWhatHappened(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		greeting string // then it closes; "" waits for us to go
		want     string
	}{
		{"554 go away\r\n", "answered 554"},
		{"421 too many\r\n", "answered 421"},
		{"SSH-2.0-OpenSSH_9.2\r\n", "spoke no SMTP"},
		{"220-mx", "closed the connection"},
		{"220 mx.test ESMTP\r\n", "closed the connection"},
		{"", "no answer"},
	} {
		t.Run(tt.want+" "+tt.greeting, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ctx, abandon := context.WithCancelCause(t.Context())
			defer abandon(nil)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					if tt.greeting == "" {
						abandon(errAbandoned)
						defer c.Close()
						continue
					}
					c.Write([]byte(tt.greeting))
					c.(*net.TCPConn).CloseWrite()
					defer c.Close()
				}
			}()
			if got := howFails(ctx, t, l.Addr().String()); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	if got, want := howFails(t.Context(), t, at), "refused the connection"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// howFails is how a connect to an address failed.
func howFails(ctx context.Context, t *testing.T, at string) string {
	t.Helper()
	addr := netip.MustParseAddrPort(at)
	d := testDeliverer(t, testSettings(t, func(c *config.Config) { c.Agent.Port = addr.Port() }), nil)
	rt := queue.Route{Site: "mx.test", Queue: &config.Queue{TLS: config.TLSNone}, Plan: &route.Plan{
		Domain: "mx.test", Hosts: []route.Host{{Name: "mx.test", Addrs: []netip.Addr{addr.Addr()}}},
	}}
	p := settings.Host{Name: "mx.test", Addr: addr}
	_, err := d.dial(ctx, d.settings.Now(), rt, p, new(dialogue.Board).Session(""))
	if err == nil {
		t.Fatal("a session came up")
	}
	a := failure(err, p)
	if errors.Is(context.Cause(ctx), errAbandoned) {
		a = unanswered(p, time.Second)
	}
	return how(err, &a)
}
