//go:build !race

package postconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/millrace/millrace/agent/config"
)

// TestHostsThatWereSetUpEarlier has hosts as the first release of set-up left them, with
// the copies that it kept: set-up shows what it would change and why, check says what is
// to be done, and undoing gives the first octets back, before and after.
func TestHostsThatWereSetUpEarlier(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/setup/earlier/*.txtar")
	if err != nil || len(cases) < 11 {
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
			first := map[string]string{}
			for _, name := range files {
				first[name] = file[name]
				if text, ok := file[name+".before-millrace"]; ok {
					first[name] = text
				}
			}
			if strings.Contains(string(archive.Comment), "no final newline") {
				first["main.cf"] = strings.TrimSuffix(first["main.cf"], "\n")
			}
			dir := instance(t, file["main.cf"], file["master.cf"])
			for _, name := range files {
				if _, ok := file[name+".before-millrace"]; !ok {
					continue
				}
				if err := os.WriteFile(backup(filepath.Join(dir, name)), []byte(first[name]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			toml := filepath.Join(t.TempDir(), "millrace.toml")
			if err := os.WriteFile(toml, []byte("hostname = \"mail.example.com\"\n"+file["millrace.toml"]), 0o600); err != nil {
				t.Fatal(err)
			}
			c, _, err := config.Load(toml)
			if err != nil {
				t.Fatal(err)
			}
			c.Milter.Mode = config.Divert
			o := SetupOptions{Dir: dir, Command: file["millrace.toml"] != ""}
			back := func(state string) {
				t.Helper()
				undo, err := Undo(t.Context(), c, o)
				if err != nil || len(undo.ByHand) > 0 {
					t.Fatalf("%s: %v %q", state, err, undo.ByHand)
				}
				for _, name := range files {
					text := string(read(t, filepath.Join(dir, name)))
					for _, change := range undo.Changes {
						if filepath.Base(change.Path) == name {
							text = string(change.New)
						}
					}
					if text != first[name] {
						t.Errorf("%s, undone: %s is\n%s\nand was\n%s", state, name, text, first[name])
					}
				}
			}
			back("as it was left")

			host, err := Read(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{"check": lines(contradictions(host, c))}
			if c.Handback.Relay, _, err = host.Relay(c, RelayOptions{Fixed: strings.Contains(file["millrace.toml"], "relay =")}); err != nil {
				t.Fatal(err)
			}
			plan, err := Setup(t.Context(), c, o)
			if err != nil {
				t.Fatal(err)
			}
			diff, err := plan.Diff(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got["diff"], got["reasons"], got["by hand"] = marked(diff), lines(plan.Reasons), lines(plan.ByHand)
			got["check then"] = lines(contradictions(plan.After, c))
			order := []string{"check", "reasons", "by hand", "diff", "check then"}
			if *update {
				archive.Files = keep(archive.Files, "main.cf", "main.cf.before-millrace", "master.cf", "master.cf.before-millrace", "millrace.toml")
			}
			for _, name := range order {
				text := strings.ReplaceAll(got[name], dir, "/etc/postfix")
				switch {
				case *update && text != "":
					archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(text)})
				case !*update && text != file[name]:
					t.Errorf("%s:\n%s\nwant:\n%s", name, text, file[name])
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if plan.Fresh {
				t.Error("what was there before is not seen, and its copies would go")
			}
			write(t, plan)
			if again, err := Setup(t.Context(), c, o); err != nil || len(again.Changes) > 0 {
				t.Errorf("a second time: %v, %+v", err, again)
			}
			back("set up anew")
		})
	}
}
