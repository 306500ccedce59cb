//go:build !race

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// front is smtpd_milters as the shipped main.cf has it.
const front = "{ unix:millrace/milter.sock, connect_timeout=5s, command_timeout=5s, content_timeout=60s, default_action=accept }"

// tables are lookup tables for the Postfixes below, "DIR" in a parameter.
func tables(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"hold":     "if /^Subject:/\n/^Subject: .*urgent/\n    HOLD for the admin\nendif\n",
		"clean":    "/^X-Hold: HOLD/ IGNORE\n/^Received: from \\[10\\./ IGNORE\n",
		"filter":   "/^X-Scan:/ FILTER scan:[127.0.0.1]:10024\n",
		"bcc":      "news@lab.test BCC archive@lab.test\n",
		"refuse":   "bad@lab.test REJECT\nworse@lab.test 550 5.7.1 hold it\n",
		"empty":    "# nobody\n",
		"own":      "postmaster@lab.test root@lab.test\n@mail.lab.test root@lab.test\n",
		"away":     "ann@far.test ann@lab.test\n",
		"redirect": "ann@far.test REDIRECT ann@lab.test\n",
		"main.cf":  "compatibility_level = 3.6\n", // postmap wants one
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"refuse", "redirect"} {
		if out, err := exec.Command("/usr/sbin/postmap", "-c", dir, "hash:"+filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("postmap: %v\n%s", err, out)
		}
	}
	return dir
}

// TestCheckFindsHardStops runs the command against running Postfixes.
func TestCheckFindsHardStops(t *testing.T) {
	t.Parallel()
	dir := tables(t)
	for name, c := range map[string]struct {
		main   map[string]string
		master []string
		set    map[string]string // of millrace.toml
		// The errors, the warnings about hard stops, in_flow_delay and mail from
		// outside, and what is accepted, as they begin; all of them, without
		// "millrace: ".
		want []string
	}{
		"nothing": {},
		"Millrace in braces, alone": {
			main: map[string]string{"smtpd_milters": "{ unix:millrace/milter.sock, connect_timeout = 5s, default_action = accept }"},
		},
		"a milter after ours": {
			main: map[string]string{"smtpd_milters": front + ", { inet:127.0.0.1:9, default_action = accept }"},
			want: []string{"error: main.cf: smtpd_milters has inet:127.0.0.1:9 after Millrace"},
		},
		"a milter after ours, observed": {
			main: map[string]string{"smtpd_milters": front + " unix:other.sock"},
			set:  map[string]string{"milter.mode": `"observe"`},
			want: []string{"warning: main.cf: smtpd_milters has unix:other.sock after Millrace"},
		},
		"a milter after ours, accepted": {
			main: map[string]string{"smtpd_milters": front + " unix:other.sock"},
			set:  map[string]string{"milter.accept_bypass": `["smtpd_milters"]`},
			want: []string{"main.cf: smtpd_milters has unix:other.sock after Millrace"},
		},
		"a milter before ours": {
			main: map[string]string{"smtpd_milters": "unix:other.sock " + front},
		},
		"a service of its own": {
			master: []string{"127.0.0.1:2525 inet n - n - - smtpd", "  -o content_filter=scan:[127.0.0.1]:10024",
				"  -o { smtpd_milters = unix:other.sock, " + front + ", inet:127.0.0.1:9 }"},
			want: []string{
				"error: master.cf: 127.0.0.1:2525/inet: smtpd_milters has inet:127.0.0.1:9 after",
				"error: master.cf: 127.0.0.1:2525/inet: content_filter is scan:[127.0.0.1]:10024",
			},
		},
		"a service without our milter": {
			master: []string{"127.0.0.1:2526 inet n - n - - smtpd", "  -o smtpd_milters=", "  -o content_filter=scan:[127.0.0.1]:10024"},
		},
		"a cleanup service of its own": {
			main: map[string]string{"header_checks": "pcre:DIR/hold", "cleanup_service_name": "own"},
			master: []string{"own unix n - n - 0 cleanup", "  -o header_checks=",
				"127.0.0.1:2527 inet n - n - - smtpd", "  -o cleanup_service_name=cleanup"},
			want: []string{"error: main.cf: header_checks has HOLD in pcre:DIR/hold"},
		},
		"checks that HOLD, FILTER": {
			main: map[string]string{"header_checks": "pcre:DIR/clean, pcre:DIR/hold", "body_checks": "regexp:DIR/filter"},
			want: []string{"error: main.cf: header_checks has HOLD in pcre:DIR/hold, which", "error: main.cf: body_checks has FILTER in regexp:DIR/filter, which"},
		},
		"checks that do neither": {
			main: map[string]string{"header_checks": "pcre:DIR/clean"},
		},
		"checks that nobody has switched on": {
			main: map[string]string{"header_checks": "pcre:DIR/hold", "receive_override_options": "no_header_body_checks"},
		},
		"access maps": {
			main: map[string]string{
				"smtpd_sender_restrictions":    "check_sender_access hash:DIR/refuse, check_sender_access texthash:DIR/bcc",
				"smtpd_recipient_restrictions": "guarded, permit",
				"smtpd_restriction_classes":    "guarded",
				"guarded":                      "check_recipient_access hash:DIR/redirect",
			},
			want: []string{"error: main.cf: smtpd_sender_restrictions has BCC in texthash:DIR/bcc, which", "error: main.cf: smtpd_recipient_restrictions has REDIRECT in hash:DIR/redirect, which"},
		},
		"access maps that refuse": {
			main: map[string]string{"smtpd_sender_restrictions": "check_sender_access hash:DIR/refuse"},
		},
		"access maps for others": {
			main: map[string]string{"smtpd_sender_restrictions": "permit_mynetworks, permit_sasl_authenticated, check_sender_access texthash:DIR/bcc"},
		},
		"access maps that cannot be read": {
			main: map[string]string{"smtpd_client_restrictions": "check_client_access tcp:127.0.0.1:9"},
			want: []string{"error: main.cf: smtpd_client_restrictions has tcp:127.0.0.1:9 (tcp tables are not looked into)"},
		},
		"a policy service": {
			main: map[string]string{"smtpd_recipient_restrictions": "check_policy_service { unix:private/policy, default_action=DUNNO }, permit"},
			want: []string{"warning: main.cf: smtpd_recipient_restrictions asks unix:private/policy: "},
		},
		"aliases": {
			main: map[string]string{"virtual_alias_maps": "texthash:DIR/own, texthash:DIR/away"},
			want: []string{"error: main.cf: virtual_alias_maps is texthash:DIR/own, texthash:DIR/away: "},
		},
		"aliases of our own domains": {
			main: map[string]string{"virtual_alias_maps": "texthash:DIR/own", "relocated_maps": "texthash:DIR/empty"},
		},
		"no aliases": {
			main: map[string]string{"virtual_alias_maps": "$virtual_maps", "virtual_maps": ""},
		},
		"addresses rewritten": {
			main: map[string]string{
				"sender_canonical_maps": "inline:{ news@lab.test=srs0@lab.test }", "sender_canonical_classes": "envelope_sender",
				"canonical_maps": "inline:{ a@lab.test=b@lab.test }", "canonical_classes": "header_sender",
				"recipient_canonical_maps": "texthash:DIR/empty", "relocated_maps": "texthash:DIR/away",
				"masquerade_domains": "lab.test", "smtp_generic_maps": "inline:{ a@lab.test=b@lab.test }",
				"sender_dependent_relayhost_maps": "inline:{ a@lab.test=[127.0.0.1]:9 }",
			},
			want: []string{
				"error: main.cf: sender_canonical_maps is ", "error: main.cf: masquerade_domains is lab.test: ",
				"error: main.cf: relocated_maps is ", "error: main.cf: smtp_generic_maps is ", "error: main.cf: sender_dependent_relayhost_maps is ",
			},
		},
		"addresses rewritten, accepted in part": {
			main: map[string]string{"masquerade_domains": "lab.test", "smtp_generic_maps": "inline:{ a@lab.test=b@lab.test }"},
			set:  map[string]string{"milter.accept_bypass": `["masquerade_domains", "always_bcc"]`},
			want: []string{"main.cf: masquerade_domains is lab.test: ", "error: main.cf: smtp_generic_maps is "},
		},
		"copies": {
			main: map[string]string{"always_bcc": "archive@lab.test"},
		},
		"copies that a discard loses": {
			main: map[string]string{"always_bcc": "archive@lab.test", "sender_bcc_maps": "texthash:DIR/empty"},
			set:  map[string]string{"milter.verdict": `"discard"`},
			want: []string{"warning: main.cf: in_flow_delay is 1s: ", "error: main.cf: always_bcc is archive@lab.test: the copies are lost"},
		},
		"copies that mail of sendmail(1) loses": {
			main: map[string]string{"recipient_bcc_maps": "inline:{ a@far.test=b@lab.test }", "non_smtpd_milters": "$smtpd_milters", "in_flow_delay": "0"},
			want: []string{"error: main.cf: recipient_bcc_maps is "},
		},
		"a filter for mail of sendmail(1)": {
			main:   map[string]string{"non_smtpd_milters": "$smtpd_milters", "in_flow_delay": "0"},
			master: []string{"pickup unix n - n 60 1 pickup", "  -o content_filter=scan:[127.0.0.1]:10024"},
			want:   []string{"error: master.cf: pickup/unix: content_filter is "},
		},
		"a relayhost that mail of sendmail(1) hides": {
			main: map[string]string{"relayhost": "[relay.far.test]", "non_smtpd_milters": "$smtpd_milters", "in_flow_delay": "0"},
			want: []string{"error: main.cf: relayhost is [relay.far.test], which Millrace does not see of mail of sendmail(1)"},
		},
		"a relayhost that is no matter": {
			main: map[string]string{"relayhost": "[relay.far.test]", "non_smtpd_milters": "$smtpd_milters", "in_flow_delay": "0"},
			set:  map[string]string{"milter.remote": `["smtp", "smtp:[relay.far.test]"]`},
		},
		"a relayhost, and mail of sendmail(1) stays": {
			main: map[string]string{"relayhost": "[relay.far.test]", "non_smtpd_milters": "$smtpd_milters", "in_flow_delay": "0"},
			set:  map[string]string{"milter.host_domains": `[]`},
		},
		"a relayhost for mail of others": {
			main: map[string]string{"relayhost": "[relay.far.test]"},
		},
		"a filter that gives mail back to our milter": {
			main:   map[string]string{"content_filter": "scan:[127.0.0.1]:10024"},
			master: []string{"127.0.0.1:10025 inet n - n - 10 smtpd", "  -o content_filter=", "  -o mynetworks=127.0.0.0/8"},
			want: []string{
				"error: main.cf: content_filter is scan:[127.0.0.1]:10024: ",
				"error: master.cf: 127.0.0.1:10025/inet: mail comes back here from content_filter=scan:[127.0.0.1]:10024, and Millrace takes mail from outside",
			},
		},
		"a filter that gives mail back past our milter": {
			main:   map[string]string{"content_filter": "scan:[127.0.0.1]:10024"},
			master: []string{"127.0.0.1:10025 inet n - n - 10 smtpd", "  -o content_filter=", "  -o receive_override_options=no_milters"},
			want:   []string{"error: main.cf: content_filter is scan:[127.0.0.1]:10024: "},
		},
		"a filter that gives mail back, loopback not in scope": {
			main:   map[string]string{"content_filter": "scan:[127.0.0.1]:10024"},
			master: []string{"127.0.0.1:10025 inet n - n - 10 smtpd", "  -o content_filter="},
			set:    map[string]string{"milter.scope": `["authenticated"]`},
			want:   []string{"error: main.cf: content_filter is scan:[127.0.0.1]:10024: "},
		},
		"a proxy filter": {
			main: map[string]string{"smtpd_proxy_filter": "127.0.0.1:10025"},
			want: []string{"error: main.cf: smtpd_proxy_filter is 127.0.0.1:10025: "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			main := map[string]string{}
			for parameter, value := range c.main {
				main[parameter] = strings.ReplaceAll(value, "DIR", dir)
			}
			p, err := lab.StartPostfix(ctx, lab.PostfixOptions{Milter: front, Extra: main, Master: c.master})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Stop()
			set := map[string]string{"outcomes.keep": `"7d"`, "feedback.read": "true", "breaker.complaints": `"0.3%"`} // else they are offered
			maps.Copy(set, c.set)
			m, err := lab.NewMillrace(lab.MillraceOptions{Host: p, Set: set})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			said, code := check(ctx, t, m, p)
			var got []string
			failed := false
			for _, line := range said[:len(said)-1] { // the last one counts them
				line = strings.ReplaceAll(strings.TrimPrefix(line, "millrace: "), dir, "DIR")
				failed = failed || strings.HasPrefix(line, "error: ")
				if !strings.HasPrefix(line, "warning: ") || strings.Contains(line, "accept_bypass") || strings.Contains(line, "in_flow_delay") || strings.Contains(line, "from outside") {
					got = append(got, line)
				}
			}
			same := len(got) == len(c.want)
			for _, want := range c.want {
				found := false
				for _, line := range got {
					found = found || strings.HasPrefix(line, want)
				}
				same = same && found
			}
			if !same || failed != (code == 1) || !failed && code != 0 {
				t.Errorf("exit code %d, got:\n%s\nwant:\n%s", code, strings.Join(said, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// postconf(1) may be run by any user, and so by the one that the agent has.
func TestCheckNeedsNoRights(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := lab.StartPostfix(ctx, lab.PostfixOptions{Milter: front, Extra: map[string]string{"masquerade_domains": "lab.test"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	m, err := lab.NewMillrace(lab.MillraceOptions{Host: p})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	programs, err := lab.Programs()
	if err != nil {
		t.Fatal(err)
	}
	// The directory of the programs is root's alone; the open file is not.
	exe, err := os.Open(filepath.Join(programs, "millrace"))
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", "--config", m.Config(), "check", "--postfix-config", p.Config())
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !bytes.Contains(out, []byte("error: main.cf: masquerade_domains is lab.test: ")) {
		t.Errorf("exit code %d\n%s", cmd.ProcessState.ExitCode(), out)
	}
}

// What a hard stop means, and how /readyz tells: mail that Postfix would hold
// is diverted all the same, until the admin mends it; nothing stops.
func TestReadyzShowsWhatIsBypassed(t *testing.T) {
	t.Parallel()
	const listen = "127.0.0.1:8891"
	r := enter(t, setup{
		postfix:  lab.PostfixOptions{Milter: "{ unix:millrace/milter.sock, default_action=accept }", Extra: map[string]string{"header_checks": "regexp:" + tables(t) + "/hold"}},
		millrace: lab.MillraceOptions{Set: map[string]string{"agent.http.listen": fmt.Sprintf("%q", listen)}},
	})
	client := &http.Client{Timeout: waiting}
	defer client.CloseIdleConnections()
	ready := func(code int, text string) {
		t.Helper()
		r.until(fmt.Sprintf("/readyz answers %d with %q", code, text), func() bool {
			resp, err := client.Get("http://" + listen + "/readyz")
			if err != nil {
				return false // the agent listens here a moment after its control socket
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && resp.StatusCode == code && strings.Contains(string(body), text)
		})
	}
	ready(http.StatusServiceUnavailable, "main.cf: header_checks has HOLD in regexp:")
	r.logLine(r.Millrace.Agent, "level=WARN", "header_checks has HOLD")

	qid := r.send("news@lab.test", []string{"reader@far.test"}, strings.Replace(news("held"), "\r\nSubject: ", "\r\nSubject: urgent ", 1))
	r.hostLines(1, qid, "hold: header Subject:")
	if line := r.verdict(qid); !strings.Contains(line, "verdict=delrcpt") {
		t.Errorf("verdict: %s", line)
	}
	r.until("the copy", func() bool { return len(r.copies("held")) == 1 })

	config := read(t, r.Millrace.Config())
	change := func(old, new string) {
		t.Helper()
		if err := os.WriteFile(r.Millrace.Config(), []byte(strings.Replace(config, old, new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := r.Millrace.Agent.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	change("[milter]\n", "[milter]\naccept_bypass = [\"header_checks\"]\n")
	ready(http.StatusOK, "ok")
	change("", "")
	ready(http.StatusServiceUnavailable, "header_checks")
	change(`mode = "divert"`, `mode = "observe"`)
	ready(http.StatusOK, "ok")
}
