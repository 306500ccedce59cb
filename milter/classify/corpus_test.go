package classify

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// A file of testdata/corpus is one message: a block that says how it came and
// what is to be decided, an empty line, and the header as the program named in
// the file's comment writes it. The keys of the block:
//
//	# comment    what it is
//	from         envelope sender, "<>" for the null one
//	arg          an ESMTP argument of MAIL; may be given again
//	to           a recipient and its mailer, else smtp to its own domain; again
//	client       address of the client; default 127.0.0.1
//	user         SASL user
//	daemon       {daemon_name}
//	command      "yes": sendmail(1) handed it in
//	before       how many such messages were seen in the minute before
//	verdict      "divert" or "leave"
//	stream, rule, reason    of the Decision
type sample struct {
	message Message
	before  int
	want    map[string]string
}

func readSample(text string) (sample, error) {
	block, header, ok := strings.Cut(text, "\n\n")
	if !ok {
		return sample{}, fmt.Errorf("no empty line after the block")
	}
	s := sample{want: map[string]string{}}
	m := &s.message
	m.Client = netip.MustParseAddr("127.0.0.1")
	for line := range strings.SplitSeq(block, "\n") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		var err error
		switch key {
		case "from":
			m.Sender = strings.TrimSuffix(strings.TrimPrefix(value, "<"), ">")
		case "arg":
			m.Args = append(m.Args, value)
		case "to":
			addr, mailer, ok := strings.Cut(value, " ")
			if r := remote(addr); !ok {
				m.Recipients = append(m.Recipients, r)
			} else {
				m.Recipients = append(m.Recipients, Recipient{Address: addr, Mailer: mailer, Host: r.Host})
			}
		case "client":
			m.Client, err = netip.ParseAddr(value)
		case "user":
			m.AuthUser = value
		case "daemon":
			m.Daemon = value
		case "command":
			m.Command = value == "yes"
		case "before":
			s.before, err = strconv.Atoi(value)
		case "verdict", "stream", "rule", "reason":
			s.want[key] = value
		default:
			if !strings.HasPrefix(key, "#") {
				err = fmt.Errorf("unknown key %q", key)
			}
		}
		if err != nil {
			return s, err
		}
	}
	for line := range strings.Lines(header) {
		line = strings.TrimSuffix(line, "\n")
		if n := len(m.Header); n > 0 && line != "" && (line[0] == ' ' || line[0] == '\t') {
			m.Header[n-1].Value += "\n" + line // as Postfix gives folded fields
		} else if name, value, ok := strings.Cut(line, ":"); ok {
			m.Header = append(m.Header, Field{name, value})
		} else {
			return s, fmt.Errorf("not a field: %q", line)
		}
	}
	return s, nil
}

// shipped is what an empty configuration file and host_domains give.
func shipped(t testing.TB) config.Milter {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace.toml")
	text := "hostname = \"mail.example.org\"\n[milter]\nhost_domains = [\"example.org\"]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return c.Milter
}

// TestCorpus judges each message of the corpus by the shipped configuration.
func TestCorpus(t *testing.T) {
	t.Parallel()
	cfg := shipped(t)
	files, err := filepath.Glob("testdata/corpus/*.eml")
	if err != nil || len(files) < 80 {
		t.Fatalf("%d messages: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".eml"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := readSample(string(text))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			c := mustNew(t, cfg)
			m := &s.message
			for i := range s.before {
				m.Arrived = start.Add(time.Duration(i) * time.Minute / time.Duration(s.before))
				c.Decide(m)
			}
			m.Arrived = start.Add(time.Minute)
			d := c.Decide(m)
			got := map[string]string{"verdict": "leave", "rule": d.Rule, "reason": d.Reason}
			if d.Divert != nil {
				got["verdict"], got["stream"] = "divert", d.Stream
			}
			for _, key := range []string{"verdict", "stream", "rule", "reason"} {
				if got[key] != s.want[key] {
					t.Errorf("%s: %q, want %q", key, got[key], s.want[key])
				}
			}
		})
	}
}

// start is when the messages of these tests begin to come.
var start = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
