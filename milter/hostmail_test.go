package milter

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/milter/classify"
)

func TestRecipientsThatTheHostSendsToAreCounted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "millrace.toml")
	text := "hostname = \"mail.example.com\"\n[[queue]]\nname = \"big\"\ndomains = [\"big.test\", \"*.big.test\"]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := classify.New(cfg.Milter, classify.NewVolume())
	if err != nil {
		t.Fatal(err)
	}
	var s Server
	m := &message{setup: &setup{cfg: cfg, classifier: c}}
	m.Recipients = []classify.Recipient{
		{Address: "a@BIG.test", Mailer: "smtp"}, {Address: "b@big.test", Mailer: "smtp"}, {Address: "c@mx.big.test", Mailer: "esmtp"},
		{Address: "d@small.test", Mailer: "smtp"}, {Address: "e@big.test", Mailer: "local"}, {Address: "f@big.test", Mailer: "relay"},
	}
	s.host.note(m, nil)
	s.host.note(m, []bool{true, false, true, true, true, true})
	want := map[string]int{"big.test": 3, "mx.big.test": 1}
	if got := s.HostMail(); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	if got := s.HostMail(); got != nil {
		t.Errorf("counted twice: %v", got)
	}
}

func TestVerdictsAreCountedFromTheStart(t *testing.T) {
	t.Parallel()
	var s Server
	if c := s.Counts(); len(c.Messages) != 0 {
		t.Errorf("counted %v", c)
	}
	s.tally.add("leave", 0)
	s.tally.add("delrcpt", 2)
	s.tally.add("delrcpt", 3)
	for range 2 { // counts stay
		if c := s.Counts(); !maps.Equal(c.Messages, map[string]uint64{"leave": 1, "delrcpt": 2}) || c.Recipients != 5 {
			t.Errorf("counted %v", c)
		}
	}
}
