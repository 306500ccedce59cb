package deliver

import (
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/settings"
)

// testSettings are settings for hosts on loopback, with changes.
func testSettings(t *testing.T, change func(*config.Config)) *settings.Settings {
	t.Helper()
	c := &config.Config{
		Hostname: "mail.lab.test",
		Agent: config.Agent{
			Resolvers: []string{"127.0.0.1:9"}, Protocols: []string{"ipv4"}, MaxSessions: 200, StateDirectory: t.TempDir(),
			AllowDestinations: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		},
		General: config.Queue{Name: "general", Route: config.Route{Kind: config.RouteMX}, TLS: config.TLSOpportunistic},
	}
	if change != nil {
		change(c)
	}
	s, err := settings.New(c, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testDeliverer connects and reads replies; it has no mail. It logs to w, if that is not nil.
func testDeliverer(t *testing.T, s *settings.Settings, w io.Writer) *Deliverer {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if w != nil {
		log = slog.New(slog.NewTextHandler(w, nil))
	}
	return New(Options{
		Log: log, Mail: event.NewLog(log, config.Log{Recipients: true}, time.Now()), Settings: settings.NewSource(s),
		Metrics: metrics.New("test", nil), Opening: t.Context(), Stop: t.Context(),
	})
}
