//go:build !race

// What postconf and diff say is asked one after the other here: the race detector has nothing to see.

package postconf

import (
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/millrace/millrace/agent/config"
)

var update = flag.Bool("update", false, "write testdata/setup anew")

// TestSetupOnAwkwardHosts sets up, again, and back, on each configuration of
// testdata/setup. Such a file has main.cf, master.cf and, if it is not empty,
// millrace.toml, then what is expected: diff, and what is left by hand.
func TestSetupOnAwkwardHosts(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/setup/*.txtar")
	if err != nil || len(cases) < 8 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file := map[string]string{}
			for _, f := range archive.Files {
				file[f.Name] = string(f.Data)
			}
			comment := string(archive.Comment)
			if strings.Contains(comment, "main.cf has no final newline") {
				file["main.cf"] = strings.TrimSuffix(file["main.cf"], "\n")
			}
			dir := instance(t, file["main.cf"], file["master.cf"])
			toml := filepath.Join(t.TempDir(), "millrace.toml")
			if err := os.WriteFile(toml, []byte(file["millrace.toml"]), 0o600); err != nil {
				t.Fatal(err)
			}
			c, _, err := config.Load(toml)
			if err != nil {
				t.Fatal(err)
			}
			o := SetupOptions{Dir: dir, Command: strings.Contains(comment, "sendmail(1) too")}
			before := shown(t, dir)
			refuse := func(err error) {
				got := strings.ReplaceAll(err.Error()+"\n", dir, "/etc/postfix")
				if *update {
					archive.Files = append(keep(archive.Files, "main.cf", "master.cf", "millrace.toml"), txtar.File{Name: "error", Data: []byte(got)})
					if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
						t.Fatal(err)
					}
				} else if got != file["error"] {
					t.Fatalf("error:\n%swant:\n%s", got, file["error"])
				}
			}

			// The relay as set-up chooses it.
			host, err := Read(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			const socket = "unix:/var/spool/postfix/public/millrace"
			var port string
			c.Handback.Relay, port, err = host.Relay(c, RelayOptions{
				Fixed: strings.Contains(file["millrace.toml"], "relay ="),
				Listen: func(network, address string) (net.Listener, error) {
					if strings.Contains(comment, address+" is in use") {
						return nil, &net.OpError{Op: "listen", Net: network, Err: syscall.EADDRINUSE}
					}
					return net.Listen("tcp", "127.0.0.1:0")
				},
			})
			if err != nil {
				refuse(err)
				return
			}
			plan, err := Setup(t.Context(), c, o)
			if err != nil {
				refuse(err)
				return
			}
			got, err := plan.Diff(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = strings.ReplaceAll(got, dir, "/etc/postfix")
			hand := lines(plan.ByHand)
			// What else is said, where it is not the usual.
			said := map[string]string{"reasons": lines(plan.Reasons)}
			if c.Handback.Relay != socket {
				said["relay"] = c.Handback.Relay + "\n"
			}
			if port != "" {
				said["port"] = port + "\n"
			}
			if strings.Contains(comment, "check is of interest") {
				diverting := *c
				diverting.Milter.Mode = config.Divert
				for _, f := range plan.After.Check(&diverting) {
					said["check"] += f.String() + "\n"
				}
			}
			if strings.Contains(comment, "host.toml is of interest") {
				x := host.Export(c)
				said["export"] = fmt.Sprintf("%+v\n%s", *x, lines(x.Notes))
			}
			for name, text := range said {
				said[name] = strings.ReplaceAll(text, dir, "/etc/postfix")
			}
			if *update {
				archive.Files = keep(archive.Files, "main.cf", "master.cf", "millrace.toml")
				archive.Files = append(archive.Files, txtar.File{Name: "diff", Data: []byte(marked(got))}, txtar.File{Name: "by hand", Data: []byte(hand)})
				for _, name := range slices.Sorted(maps.Keys(said)) {
					if said[name] != "" {
						archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(said[name])})
					}
				}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if marked(got) != file["diff"] || hand != file["by hand"] {
				t.Errorf("diff:\n%s\nby hand:\n%s", got, hand)
			} else {
				for name, text := range said {
					if text != file[name] {
						t.Errorf("%s:\n%s\nwant:\n%s", name, text, file[name])
					}
				}
			}

			write(t, plan)
			again, err := Setup(t.Context(), c, o)
			if err != nil || len(again.Changes) != 0 {
				t.Errorf("set up a second time: %+v, %v", again, err)
			}
			undo, err := Undo(t.Context(), c, o)
			if err != nil {
				t.Fatal(err)
			}
			write(t, undo)
			if strings.Contains(before, "millrace") { // by hand, before: that goes too
				if now := shown(t, dir); strings.Contains(now, "unix:millrace") {
					t.Errorf("after undoing:\n%s", now)
				}
				return
			}
			for name, text := range map[string]string{"main.cf": file["main.cf"], "master.cf": file["master.cf"]} {
				if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(now) != text {
					t.Errorf("%s is not what it was: %v\n%s", name, err, now)
				}
			}

			// The admin has done something meanwhile: that stays.
			write(t, plan)
			edit(t, dir, "main.cf", "# a line of the admin's\nmessage_size_limit = 12345678\n")
			if undo, err = Undo(t.Context(), c, o); err != nil {
				t.Fatal(err)
			}
			write(t, undo)
			if now := shown(t, dir); strings.Replace(now, "message_size_limit = 12345678\n", "", 1) != before || now == before {
				t.Errorf("after undoing:\n%s\nbefore setting up:\n%s", now, before)
			}
		})
	}
}
