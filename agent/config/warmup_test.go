package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWarmupOfAddresses(t *testing.T) {
	t.Parallel()
	c, notices := load(t, `
[[pool]]
name = "news"
addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
warmup = ["", "standard", "careful"]
overflow = "warm"
[[pool]]
name = "new"
addresses = ["192.0.2.8", "192.0.2.9"]
warmup = "standard"
overflow = "wait"
[[warmup]]
name = "careful"
days = [50, 100, 100]
hard_bounces = "2%"
complaints = ""
`)
	for a, want := range map[string]string{"192.0.2.1": "", "192.0.2.2": "standard", "2001:db8::1": "careful", "192.0.2.8": "standard", "192.0.2.9": "standard"} {
		if got, p := c.WarmupOf(netip.MustParseAddr(a)); got != want || (p == nil) != (want == "") {
			t.Errorf("%s has %q", a, got)
		}
	}
	if w := c.Warmups[0]; !slices.Equal(w.Days, Days{50, 100, 100}) || w.Deferrals != 0.05 || w.HardBounces != 0.02 || w.Complaints != 0 {
		t.Errorf("%+v", w)
	}
	if c.Pools[0].Overflow != OverflowWarm || c.Pools[1].Overflow != OverflowWait {
		t.Errorf("%+v", c.Pools)
	}
	if len(notices) != 1 || !strings.Contains(notices[0].Text, "no warm IPv6 address") {
		t.Errorf("%v", notices)
	}
}

func TestWarmupThatCannotBe(t *testing.T) {
	t.Parallel()
	const pool = "[[pool]]\nname = \"news\"\naddresses = [\"192.0.2.1\", \"192.0.2.2\"]\n"
	for text, want := range map[string]string{
		pool + `warmup = ["", "standard"]`:                                           `4: pool "news" does not say what becomes of mail beyond`,
		pool + "warmup = [\"standard\"]\noverflow = \"wait\"":                        "4: warmup: 1 plans for 2 addresses",
		pool + "warmup = [\"\", \"fast\"]\noverflow = \"wait\"":                      `4: warmup: there is no plan "fast"`,
		pool + "warmup = \"standard\"\noverflow = \"warm\"":                          `5: overflow: pool "news" has no warm address`,
		pool + "overflow = \"warm\"":                                                 "4: overflow: no address of this pool warms up",
		pool + "warmup = [\"\", \"standard\"]\noverflow = \"drop\"":                  `5: overflow: "drop" is unknown`,
		"[[warmup]]\ndays = [50]":                                                    "1: a plan without a name",
		"[[warmup]]\nname = \"a\"":                                                   `1: plan "a" has no days`,
		"[[warmup]]\nname = \"a\"\ndays = [50, 40]":                                  "3: days: 40 is less than the day before",
		"[[warmup]]\nname = \"a\"\ndays = [0]":                                       "3: days: 0 is out of range",
		"[[warmup]]\nname = \"a\"\ndays = [1]\n[[warmup]]\nname = \"a\"\ndays = [1]": `5: name: there is a plan "a" already at`,
		"[[warmup]]\nname = \"a\"\ndays = [1]\ndeferrals = \"5\"":                    `4: deferrals: "5" is not a share`,
		"[[pool]]\nname = \"n\"\naddresses = [\"192.0.2.1\", \"2001:db8::1\", \"2001:db8::2\"]\nwarmup = [\"\", \"\", \"standard\"]\noverflow = \"warm\"": "4: warmup: 2001:db8::1 and 2001:db8::2 are of one /64",
	} {
		file := filepath.Join(t.TempDir(), "millrace.toml")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, found := Load(file)
		err := fmt.Sprint(found)
		if !strings.Contains(err, ":"+want) || !strings.Contains(err, "; remedy: ") {
			t.Errorf("%s\n%s\nwant %s", text, err, want)
		}
	}
}
