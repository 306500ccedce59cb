package e2e

import (
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// Debian runs smtpd and cleanup in the queue directory: the milter's socket is
// there, and the one relative path to it holds inside and outside, for smtpd and
// for the cleanup(8) that filters the mail of sendmail(1).
func TestChrootedPostfix(t *testing.T) {
	t.Parallel()
	const relative, absolute, outside = "127.83.0.1:25", "127.83.0.2:25", "127.83.0.3:25"
	entry := func(path string) string { return "{ unix:" + path + ", default_action=accept }" }
	r := enter(t, setup{postfix: lab.PostfixOptions{
		Chroot: true, Milter: entry("millrace/milter.sock"), NonSMTPDMilter: entry("millrace/milter.sock"),
		Extra: map[string]string{"in_flow_delay": "0"},
		Master: []string{
			relative + " inet n - y - - smtpd",
			absolute + " inet n - y - - smtpd", "  -o { smtpd_milters = " + entry("/millrace/milter.sock") + " }",
			outside + " inet n - n - - smtpd",
		},
	}})
	socket := strings.TrimPrefix(r.Millrace.Socket(), "unix:")
	var want []string
	each := func(phase string, way string) {
		t.Helper()
		for name, addr := range map[string]string{"relative": relative, "absolute": absolute, "outside": outside} {
			p := r.call(netip.Addr{}, addr)
			p.says("250", "EHLO client.test")
			id := name + "-" + phase
			p.sends("<news@lab.test>", []string{"<a@far.test>", "<user@lab.test>"}, news(id))
			p.quits()
			want = append(want, id+" a@far.test "+way)
		}
		id := "command-" + phase
		if err := r.Postfix.Sendmail(r.ctx, "news@lab.test", []string{"a@far.test"}, []byte(news(id))); err != nil {
			t.Fatal(err)
		}
		want = append(want, id+" a@far.test "+way)
		r.exactly(want...)
	}
	rights := func() {
		t.Helper()
		st, err := os.Stat(socket)
		if err != nil {
			t.Fatal(err)
		}
		g, err := user.LookupGroup("postfix")
		if err != nil {
			t.Fatal(err)
		}
		if gid := st.Sys().(*syscall.Stat_t).Gid; strconv.Itoa(int(gid)) != g.Gid || st.Mode().Perm() != 0o660 {
			t.Errorf("the socket is %v of group %d; postfix is %s", st.Mode(), gid, g.Gid)
		}
	}
	rights()
	each("first", "ours")

	// A socket that Postfix may not open: its mail goes on, and it says why.
	if err := os.Chmod(socket, 0o600); err != nil {
		t.Fatal(err)
	}
	each("shut", "postfix")
	if lines := r.hostLines(4, "connect to Milter service", "milter.sock: Permission denied"); len(lines) != 4 {
		t.Errorf("Postfix tells %d times of 4 that it may not connect: %q", len(lines), lines)
	}

	// A new socket has its rights again.
	r.stop(r.Millrace.Milter)
	r.start(r.Millrace.Milter)
	rights()
	each("again", "ours")
	if got := len(r.mailbox("user@lab.test", 9)); got != 9 {
		t.Errorf("%d local copies of 9", got)
	}
	if lines, err := r.Postfix.LogLines("warning:", "ilter"); err != nil || len(lines) != 4 {
		t.Errorf("Postfix warns of more about its milter: %q (%v)", lines, err)
	}
}
