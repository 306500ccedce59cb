package config

import (
	"regexp"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestScanLinesFindsEveryKeyAndElement(t *testing.T) {
	t.Parallel()
	text := `# a comment [not.a.table]
hostname = "a # b" # c = 1

[ general ]        # line 4
retry = [ # [
  "5m", '15m',
  """
  [30m]
  """, "x]",
]
expire = '''
tls = "no key"
''''
tls="none"

[[queue]]
name = "a\"b = 1"
"quoted key" = 1
domains = [
  "one.example", # one

  "two.example" ]
agent.port = 1
[[queue]]
sub = { a = 1, b = [
  1,
  2 ] }
[queue.table]
x = 1979-05-27 07:32:00
[[milter.rule]]
[[milter.rule]]
min_size = 5
`
	got := scanLines(text)
	for path, want := range map[string]int{
		"hostname": 2, "general": 4, "general.retry": 5, "general.retry[0]": 6, "general.retry[1]": 6,
		"general.retry[2]": 7, "general.retry[3]": 9, "general.expire": 11, "general.tls": 14,
		"queue[0]": 16, "queue[0].name": 17, "queue[0].quoted key": 18, "queue[0].domains": 19,
		"queue[0].domains[0]": 20, "queue[0].domains[1]": 22, "queue[0].agent.port": 23,
		"queue[1]": 24, "queue[1].sub": 25, "queue[1].sub.a": 25, "queue[1].sub.b[1]": 27,
		"queue[1].table": 28, "queue[1].table.x": 29,
		"milter.rule[0]": 30, "milter.rule[1]": 31, "milter.rule[1].min_size": 32,
	} {
		if got[path] != want {
			t.Errorf("%s: line %d, want %d", path, got[path], want)
		}
	}
	if len(got) != 28 {
		t.Errorf("%d paths were found, want 28: %v", len(got), got)
	}
}

// FuzzScanLines: whatever the TOML parser takes, the scanner finds a line for
// each of its keys; and it ends on everything else.
func FuzzScanLines(f *testing.F) {
	f.Add("a = 1\n[b]\nc.d = [1, {e = 2}]\n[[f]]\n'g' = \"\"\"\n\"\"\"\"\n")
	f.Add("[a]\nb = 'x\n")
	f.Add("x = [\"\\")
	index := regexp.MustCompile(`\[\d+\]`)
	f.Fuzz(func(t *testing.T, text string) {
		lines := scanLines(text)
		var tree map[string]any
		md, err := toml.Decode(text, &tree)
		if err != nil || strings.Contains(text, "\\") {
			return // escaped keys are found under another spelling
		}
		found := map[string]bool{}
		for path, line := range lines {
			found[index.ReplaceAllString(path, "")] = true
			if n := strings.Count(text, "\n") + 1; line < 1 || line > n {
				t.Errorf("%s: line %d of %d", path, line, n)
			}
		}
		for _, key := range md.Keys() {
			if !found[index.ReplaceAllString(strings.Join(key, "."), "")] { // Keys has no indices
				t.Errorf("no line for %q in %q", key, text)
			}
		}
	})
}
