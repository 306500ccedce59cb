package watch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// TestHostIsAskedAgain with a real postconf: no Postfix is nothing to say, an
// answer that cannot be had is told once, and what was known stays meanwhile.
func TestHostIsAskedAgain(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MAIL_CONFIG", dir)
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Minute) // Postfix waits for a file that is being written
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	var log logbuf.Buffer
	store, err := spool.OpenStore(t.TempDir(), spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	logger, queue, source := log.Logger(), queue.New(queue.Options{}), settings.NewSource(&settings.Settings{Config: &config.Config{}, Sites: sites.New()})
	standing, err := orders.New(orders.Options{Log: logger, Settings: source, Store: store, Queue: queue, Stop: t.Context()})
	if err != nil {
		t.Fatal(err)
	}
	events := event.NewFile(event.Place{}, logger)
	defer events.Close(context.Background())
	w := New(Options{
		Log: logger, Settings: source, Store: store, Queue: queue, Orders: standing, Settler: settle.New(settle.Options{Queue: queue}),
		Events: events, Relays: func() []string { return []string{"queue relayed waits"} }, Opening: t.Context(),
	})
	w.SetLoaded()
	if got := w.NotReady(); !slices.Equal(got, []string{"queue relayed waits"}) {
		t.Errorf("/readyz: %q", got)
	}
	mode := func(m config.Mode) {
		source.Use(&settings.Settings{Config: &config.Config{Milter: config.Milter{
			Mode: m, Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"}, Scope: []string{"authenticated"},
		}}})
	}
	mode(config.Divert)
	var look inletLook
	if found, err := unaccepted(t.Context(), source.Now().Config, &look); found != nil || look.stops != nil || err != nil {
		t.Fatalf("without Postfix: %q, %q, %v", found, look.stops, err)
	}

	write("main.cf", "compatibility_level = 3.6\nqueue_directory = /var/spool/postfix\nmyhostname = mail.example.com\n"+
		"smtpd_milters = unix:millrace/milter.sock\nmasquerade_domains = example.com\n")
	const master = "smtp inet n - y - - smtpd\ncleanup unix n - y - 0 cleanup\n"
	write("master.cf", master)
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() { w.SettingsLoop(ctx) })
	defer loop.Wait()
	defer cancel()
	wait := func(what string, holds func() bool) {
		t.Helper()
		limit, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		if err := lab.Until(limit, func() (bool, error) { return holds(), nil }); err != nil {
			t.Fatalf("never: %s (%v)", what, err)
		}
	}
	shown := func() int {
		return strings.Count(strings.Join(w.NotReady(), "\n"), "masquerade_domains is example.com")
	}
	wait("the setting is shown", func() bool { return shown() == 1 })

	write("master.cf", "smtp inet\n")
	const unread = "settings cannot be read"
	for range 3 {
		w.reloaded <- struct{}{}
		wait("postconf fails", func() bool { return len(log.Lines(unread)) == 1 && len(w.reloaded) == 0 })
	}
	if shown() != 1 {
		t.Error("what was known is gone")
	}
	write("master.cf", master)
	mode(config.Observe)
	w.reloaded <- struct{}{}
	wait("nothing is shown in observe mode", func() bool { return shown() == 0 })
	if n := len(log.Lines(unread)); n != 1 {
		t.Errorf("told %d times", n)
	}
	if n := len(log.Lines("passes by a setting")); n != 1 {
		t.Errorf("the setting was logged %d times", n)
	}
}

// What the milter hears of the host's settings is of the configuration in force, and of a
// while ago at most: what is not known is not said to be nothing.
func TestInletHearsOnlyWhatIsKnown(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MAIL_CONFIG", dir)
	old := time.Now().Add(-time.Minute)
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	cfg := func(m config.Mode, accepted ...string) *settings.Settings {
		return &settings.Settings{Config: &config.Config{
			Milter: config.Milter{Mode: m, Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"}},
			Inlet:  config.Inlet{Listen: []string{"inet:8825@127.0.0.1"}, PassTo: "inet:25@127.0.0.1", AcceptBypass: accepted},
		}}
	}
	source := settings.NewSource(cfg(config.Observe))
	w := &Watch{settings: source}
	look := func() error {
		l := inletLook{cfg: source.Now().Config, at: time.Now()}
		_, err := unaccepted(t.Context(), l.cfg, &l)
		if err == nil {
			w.inlet.Store(&l)
		}
		return err
	}
	says := func(when string, known bool, stops int) {
		t.Helper()
		if got, ok := w.inletStops(time.Now()); ok != known || len(got) != stops {
			t.Errorf("%s: %q, known %v", when, got, ok)
		}
	}
	says("before the first look", false, 0)
	if err := look(); err != nil {
		t.Fatal(err)
	}
	says("in observe, where nobody is asked", false, 0)
	source.Use(cfg(config.Divert))
	says("after a reload to divert", false, 0)
	if err := look(); err != nil {
		t.Fatal(err)
	}
	says("on a host without Postfix", true, 1)
	source.Use(cfg(config.Divert, config.NotPostfix))
	says("after a reload", false, 0)
	if err := look(); err != nil {
		t.Fatal(err)
	}
	says("once that is accepted", true, 0)

	write("main.cf", "compatibility_level = 3.6\nqueue_directory = /var/spool/postfix\nmyhostname = mail.example.com\nmynetworks = 127.0.0.0/8\n"+
		"smtpd_milters = unix:millrace/milter.sock\nalways_bcc = all@example.com\n")
	write("master.cf", "smtp inet n - y - - smtpd\ncleanup unix n - y - 0 cleanup\n")
	source.Use(cfg(config.Divert))
	if err := look(); err != nil {
		t.Fatal(err)
	}
	says("with Postfix", true, 1)
	write("master.cf", "smtp inet\n")
	if err := look(); err == nil {
		t.Fatal("postconf does not fail")
	}
	says("when postconf fails", true, 1)
	if _, known := w.inletStops(time.Now().Add(inletLookFor + time.Second)); known {
		t.Error("it has failed for long, and what was found before is still the word")
	}
}
