package main

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// TestCheckLooksAtCertificatesOfTheFleet has one that other nodes take, one that ends soon, and one
// that names another fleet.
func TestCheckLooksAtCertificatesOfTheFleet(t *testing.T) {
	t.Parallel()
	ca, err := selfsigned.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		leaf selfsigned.Leaf
		want string
	}{
		"good":          {selfsigned.Leaf{DNS: []string{"mx1"}}, ""},
		"ends soon":     {selfsigned.Leaf{DNS: []string{"mx1"}, NotAfter: time.Now().Add(24 * time.Hour)}, " ends at "},
		"another fleet": {selfsigned.Leaf{DNS: []string{"mx1"}, URI: []string{"millrace:web"}}, `of the fleet "web"`},
	} {
		p, err := ca.Issue(c.leaf)
		if err != nil {
			t.Fatal(err)
		}
		f := config.Fleet{Name: "mail", Node: "mx1"}
		if f.TLSCAFile, f.TLSCertFile, f.TLSKeyFile, err = ca.Write(t.TempDir(), "mx1", p); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(certificates(&f), "\n")
		if !strings.Contains(got, c.want) || (c.want == "") != (got == "") || c.want != "" && !strings.Contains(got, "remedy") {
			t.Errorf("%s: %q", name, got)
		}
		f.Name = ""
		if l := certificates(&f); len(l) > 0 {
			t.Errorf("%s, without a fleet: %q", name, l)
		}
	}
}
