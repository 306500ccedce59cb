package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/inlet"
)

// mailer is a program that hands one message to the inlet.
type mailer struct {
	name string
	// run is a command. What it reads on its standard input is the message, with lines that end
	// in LF; PORT is the inlet's, FILE a file with the message.
	run []string
	// files are written beside it, and named in run as DIR/NAME.
	files map[string]string
	// open is set for a program that adds a line end to the message.
	open bool
	// own is set for a program that makes the message: it prints what it has sent.
	own bool
}

// msmtprc is the shipped configuration of msmtp.
func msmtprc(t *testing.T) string {
	t.Helper()
	i, j := strings.Index(inlet.Clients, "account default"), strings.Index(inlet.Clients, "tls off\n")
	if i < 0 || j < i {
		t.Fatal("contrib/inlet/clients.txt has no configuration of msmtp")
	}
	return inlet.Clients[i : j+len("tls off\n")]
}

// mailers are those that a host is likely to have; more are in inlet_clients_long_test.go.
func mailers(t *testing.T) []mailer {
	return []mailer{
		{name: "swaks", run: []string{"swaks", "--server", "127.0.0.1", "--port", "PORT", "--pipeline", "--from", "news@lab.test",
			"--to", "swaks@far.test,second@far.example", "--data", "@FILE"}, open: true},
		{name: "msmtp", run: []string{"msmtp", "-C", "DIR/msmtprc", "-oi", "-f", "news@lab.test", "--", "msmtp@far.test", "second@far.example"},
			files: map[string]string{"msmtprc": msmtprc(t)}},
	}
}

// TestMailersSpeakToTheInlet has programs hand in a message with all that SMTP must carry: it
// arrives through spool and agent as it was, octet by octet.
func TestMailersSpeakToTheInlet(t *testing.T) {
	t.Parallel()
	speakToTheInlet(t, mailers(t))
}

func speakToTheInlet(t *testing.T, list []mailer) {
	s, addr := withInlet(t, setup{keep: true})
	r := enter(t, s)
	probes := r.spools(addr)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	sent := map[string]string{}
	for _, m := range list {
		content := news(m.name) + strings.Join([]string{
			".", "..", ".dot", "...", "", "Größe \xe2\x82\xac", "\ttab  ", strings.Repeat("0123456789", 100)[:998], "From here", ".", "The end.", "",
		}, "\r\n")
		dir := t.TempDir()
		text := strings.ReplaceAll(content, "\r\n", "\n")
		if m.open {
			text = strings.TrimSuffix(text, "\n")
		}
		if err := os.WriteFile(filepath.Join(dir, "message"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, text := range m.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(inlet.At(text, port, "", "")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		words := strings.NewReplacer("PORT", port, "FILE", filepath.Join(dir, "message"), "DIR", dir)
		var args []string
		for _, a := range m.run {
			args = append(args, words.Replace(a))
		}
		cmd := exec.CommandContext(r.ctx, args[0], args[1:]...)
		in, err := os.Open(filepath.Join(dir, "message"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = in
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		in.Close()
		if err != nil {
			t.Errorf("%s: %v\n%s%s", m.name, err, out, said.String())
			continue
		}
		if m.own {
			content = string(out)
		}
		sent[m.name] = content
	}
	r.until("all has arrived", func() bool { return len(r.all()) >= probes+2*len(sent) })
	r.rest()
	for name, content := range sent {
		copies := r.copies(name)
		if len(copies) != 2 {
			t.Errorf("%s: %d copies", name, len(copies))
		}
		for _, a := range copies {
			if !strings.HasPrefix(a.qid, "I") || !a.ours() {
				t.Errorf("%s to %s came with queue id %q, spool id %q", name, a.recipient, a.qid, a.spool)
			}
			if got := strings.TrimPrefix(a.content, received.FindString(a.content)); got != content {
				t.Errorf("%s to %s: arrived\n%q\nsent\n%q", name, a.recipient, got, content)
			}
		}
	}
}
