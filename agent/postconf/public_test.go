//go:build !race

package postconf

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/millrace/millrace/agent/config"
)

// usual are the services that most hosts have and that say nothing here; a master.cf of
// testdata/setup/public stands for them by its last line.
const usual = `pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
smtp unix - - n - - smtp
relay unix - - n - - smtp
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
`

// pair reads a main.cf and a master.cf of testdata/setup/public. Each is the shape of
// one that a public project ships, in our own words: the lines that matter to Millrace,
// with other names, addresses and tables.
func pair(t *testing.T, path string) (main, master string) {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		text := string(f.Data)
		for trait, change := range map[string]func(string) string{
			f.Name + " has no final newline": func(s string) string { return strings.TrimSuffix(s, "\n") },
			f.Name + " has CRLF":             func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		} {
			if strings.Contains(string(archive.Comment), trait) {
				text = change(text)
			}
		}
		if f.Name == "main.cf" {
			main = text
		} else {
			master = strings.Replace(text, "# and the usual services\n", usual, 1)
		}
	}
	return main, master
}

func publicPairs(t *testing.T) []string {
	t.Helper()
	pairs, err := filepath.Glob("testdata/setup/public/*.txtar")
	if err != nil || len(pairs) < 56 {
		t.Fatalf("%d pairs, %v", len(pairs), err)
	}
	return pairs
}

// TestSetupOnPublicConfigurations sets up, again, and back on configurations that
// strangers wrote. Every second one lies behind symbolic links. Each run of the tests has some of
// them, among them those whose lines end otherwise; the build tag "long" all.
func TestSetupOnPublicConfigurations(t *testing.T) {
	t.Parallel()
	for i, path := range publicPairs(t) {
		main, master := pair(t, path)
		plain := !strings.Contains(main, "\r") && strings.HasSuffix(main, "\n") && strings.HasSuffix(master, "\n")
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		if plain && !inEachRun(i, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := instance(t, main, master)
			dir := store
			if i%2 == 1 {
				dir = t.TempDir()
				for _, name := range files {
					if err := os.Symlink(filepath.Join(store, name), filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := os.Chmod(filepath.Join(store, "master.cf"), 0o640); err != nil {
				t.Fatal(err)
			}
			c := &config.Config{
				Milter:   config.Milter{Mode: config.Divert, Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"}, Scope: []string{"authenticated", "loopback"}, Remote: []string{"smtp"}},
				Handback: config.Handback{Relay: "127.0.0.1:10626"},
			}
			o := SetupOptions{Dir: dir}
			before, err := Read(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if c.Handback.Relay, _, err = before.Relay(c, RelayOptions{Listen: func(string, string) (net.Listener, error) {
				return net.Listen("tcp", "127.0.0.1:0")
			}}); err != nil {
				t.Fatal(err)
			}
			plan, err := Setup(t.Context(), c, o)
			if err != nil {
				t.Fatal(err)
			}
			write(t, plan)
			holds(t, c, before, dir)
			if again, err := Setup(t.Context(), c, o); err != nil || len(again.Changes) != 0 {
				diff, _ := again.Diff(t.Context())
				t.Errorf("set up a second time: %s %v", diff, err)
			}

			// What an admin writes meanwhile, in comments too, stays.
			set := map[string][]byte{}
			for _, name := range files {
				set[name] = read(t, filepath.Join(dir, name))
			}
			edit(t, dir, "main.cf", "# a word of the admin's\n#relayhost = [relay.example.test]\n")
			edit(t, dir, "master.cf", "#628 inet n - n - - qmqpd\n")
			undo, err := Undo(t.Context(), c, o)
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range undo.Changes {
				if text := string(change.New); !strings.Contains(text, "admin's") && !strings.Contains(text, "qmqpd") {
					t.Errorf("the admin's comments are lost in %s:\n%s", change.Path, text)
				}
			}

			for _, name := range files {
				if err := os.WriteFile(filepath.Join(dir, name), set[name], 0); err != nil {
					t.Fatal(err)
				}
			}
			settled(t, dir)
			if undo, err = Undo(t.Context(), c, o); err != nil || len(undo.ByHand) > 0 {
				t.Fatalf("%v %q", err, undo.ByHand)
			}
			write(t, undo)
			for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
				if now := read(t, filepath.Join(dir, name)); string(now) != text {
					t.Errorf("%s is not what it was:\n%s\n---\n%s", name, now, text)
				}
				info, err := os.Lstat(filepath.Join(dir, name))
				if err != nil || info.Mode().IsRegular() == (dir != store) {
					t.Errorf("%s was a link: %t, and is %v, %v", name, dir != store, info.Mode(), err)
				}
			}
			if info, err := os.Stat(filepath.Join(dir, "master.cf")); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("master.cf has the mode %v, %v", info.Mode(), err)
			}
		})
	}
}

// holds looks at the result of a set-up.
func holds(t *testing.T, c *config.Config, before *Postfix, dir string) {
	t.Helper()
	after, err := Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name := range maps.Keys(after.main) {
		if after.main[name] != before.main[name] && !slices.Contains([]string{"smtpd_milters", "in_flow_delay"}, name) && name != "process_id" {
			t.Errorf("%s was %q and is %q", name, before.main[name], after.main[name])
		}
	}
	us := 0
	for i := range after.services {
		s := &after.services[i]
		if s.command != "smtpd" || after.listens(s, c.Handback.Relay) {
			continue
		}
		n := strings.Count(after.value(s, "smtpd_milters"), "millrace/milter.sock")
		us += n
		if n > 1 {
			t.Errorf("%s names Millrace %d times", s.where(), n)
		}
	}
	if us == 0 {
		t.Error("no service names Millrace")
	}
	for _, f := range after.Check(c) {
		if f.Severity == Contradiction && f.Bypass == "" {
			t.Errorf("check is not content: %s", f)
		}
	}
}
