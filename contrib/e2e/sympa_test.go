//go:build !race

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/inlet"
	"github.com/millrace/millrace/contrib/lab"
)

// TestSympasPostsGoAndItsAnswersStay has Debian's Sympa make a post of what was written to a
// list, once for all members and once with a return path for each (VERP), and answer a
// command. All of it goes to sendmail(1), as Sympa does it, and to msmtp in its place: posts are
// diverted with Sympa's own envelope and header, the answer stays with the host.
func TestSympasPostsGoAndItsAnswersStay(t *testing.T) {
	t.Parallel()
	sympa, err := lab.NewSympa()
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	t.Cleanup(func() {
		if !closed {
			sympa.Close()
		}
	})
	members := []string{"ann@far.test", "bob@far.example"}
	news, err := sympa.AddList("news", "", members...)
	if err != nil {
		t.Fatal(err)
	}
	personal, err := sympa.AddList("personal", "verp_rate 100%\n", members...)
	if err != nil {
		t.Fatal(err)
	}
	robot := sympa.RobotAddress()
	for to, subject := range map[string]string{news: "News", personal: "News for you", robot: "HELP"} {
		err := sympa.Receive(t.Context(), to, []byte("From: Editor <editor@far.test>\nTo: "+to+"\nSubject: "+subject+
			"\nDate: Mon, 23 Nov 2026 12:00:00 +0000\nMessage-ID: <"+strings.ReplaceAll(to, "@", ".")+"@far.test>\n\nHELP\n"))
		if err != nil {
			t.Fatal(err)
		}
	}
	handed, err := sympa.Process(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closed = true
	if err := sympa.Close(); err != nil { // its files are in memory
		t.Fatal(err)
	}

	handed = slices.DeleteFunc(handed, func(h lab.Handed) bool {
		return slices.Equal(h.To, []string{"postmaster@lab.test"}) // its listmaster, who is told that the database was made
	})
	host, addr := withInlet(t, setup{keep: true, postfix: lab.PostfixOptions{NonSMTPDMilter: lab.RelativeSocket}})
	r := enter(t, host)
	r.takesFromSympa(handed, false, func(h *lab.Handed) error { return r.Postfix.Sendmail(r.ctx, h.From, h.To, h.Message) })
	for _, list := range []string{"news", "personal"} {
		r.logLine(r.Millrace.Milter, "verdict=discard", "stream="+list+".lists.lab.test")
	}
	probes := len(r.all()) + r.spools(addr)
	r.until("the probes have arrived", func() bool { return len(r.all()) >= probes })
	r.rest()
	r.forget()
	// The same through msmtp, called as Sympa calls what its parameter sendmail names.
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	rc := filepath.Join(t.TempDir(), "msmtprc")
	if err := os.WriteFile(rc, []byte(inlet.At(msmtprc(t), port, "", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	r.takesFromSympa(handed, true, func(h *lab.Handed) error {
		cmd := exec.CommandContext(r.ctx, "msmtp", append(append(append([]string{"-C", rc}, h.Args...), "-f", h.From, "--"), h.To...)...)
		cmd.Stdin = bytes.NewReader(h.Message)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", cmd.Args, err, out)
		}
		return nil
	})
}

// takesFromSympa has what Sympa made handed over, and checks by which way each copy comes, and
// that posts have Sympa's header.
func (r *room) takesFromSympa(handed []lab.Handed, byInlet bool, hand func(*lab.Handed) error) {
	r.t.Helper()
	header := map[string]string{} // by sender and recipient
	var want []string
	for _, h := range handed {
		if err := hand(&h); err != nil {
			r.t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(h.Message), "\n\n")
		way := "postfix"
		if strings.Contains(head, "\nX-Sequence: ") {
			way = "ours"
		}
		for _, to := range h.To {
			want = append(want, h.From+" "+to+" "+way)
			header[h.From+" "+to] = head
		}
	}
	if len(want) != 5 {
		r.t.Errorf("Sympa sent %q; want two posts to two members and an answer", want)
	}
	r.until("all has arrived", func() bool { return len(r.all()) >= len(want) })
	r.rest()
	var got []string
	for _, a := range r.all() {
		way := "postfix"
		if a.ours() {
			way = "ours"
		}
		got = append(got, a.sender+" "+a.recipient+" "+way)
		if spooled := strings.HasPrefix(a.qid, "I"); spooled != (byInlet && a.ours()) || strings.Contains(a.content, "(Millrace inlet)") != (byInlet && !a.ours()) {
			r.t.Errorf("the copy to %s came with queue id %q:\n%s", a.recipient, a.qid, a.content)
		}
		if !a.ours() {
			continue
		}
		if h := strings.ReplaceAll(header[a.sender+" "+a.recipient], "\n", "\r\n"); !strings.Contains(a.content, h) {
			r.t.Errorf("the header of the copy to %s is not Sympa's:\n%s\nSympa's:\n%s", a.recipient, a.content, h)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.t.Errorf("arrived %q, want %q", got, want)
	}
}
