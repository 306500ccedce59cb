package order

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/fleetca"
)

// logged opens a Log whose lines can be read.
func logged(t *testing.T, ca *fleetca.CA, node, path string) (*Log, func() []string) {
	t.Helper()
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "order" {
			return slog.Attr{}
		}
		return a
	}}))
	l, err := Open(Options{Fleet: "f", Node: node, Path: path, Certificate: ca.Node(t, node), Roots: ca.Roots, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return l, func() []string {
		list := strings.FieldsFunc(b.String(), func(r rune) bool { return r == '\n' })
		b.Reset()
		return list
	}
}

// TestOrdersOfOthersAreLogged has a node hear of each kind, of what was over before it did, and of
// all once more.
func TestOrdersOfOthersAreLogged(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	a := open(t, ca, ca.Node(t, "a"), "a", "")
	path := filepath.Join(t.TempDir(), "orders")
	b, lines := logged(t, ca, "b", path)
	give := func(who string, kind Kind, body any, lifts ...ID) ID {
		t.Helper()
		id, err := a.Issue(who, kind, body, time.Time{}, lifts...)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	take := func(want ...string) {
		t.Helper()
		if _, err := b.TakeAll(all(a)); err != nil {
			t.Fatal(err)
		}
		if got := lines(); !slices.Equal(got, want) {
			t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	over := give("eve", Pause, "of before")
	give("eve", Lift, nil, over)
	take()
	stream := give("ann (uid 1000)", Pause, "news")
	take(`level=INFO msg=admin do=pause request="\"news\"" who="ann (uid 1000)" node=a`)
	limit := give("breaker", Limit, "far")
	give("bob", Priority, 3)
	give("bob", Cancel, "sale")
	give("bob", Suppress, []string{"x@a.example"})
	give("bob", Unsuppress, []string{"x@a.example"})
	give("", Suppress, []string{"bounced@a.example"})
	give("bob", "later", "of a later version")
	take(`level=INFO msg=admin do=limit request="\"far\"" who=breaker node=a`,
		`level=INFO msg=admin do=priority request=3 who=bob node=a`,
		`level=INFO msg=admin do=cancel request="\"sale\"" who=bob node=a`,
		`level=INFO msg=admin do=suppress request="[\"x@a.example\"]" who=bob node=a`,
		`level=INFO msg=admin do=unsuppress request="[\"x@a.example\"]" who=bob node=a`)
	give("carl", Lift, nil, stream, limit)
	take(`level=INFO msg=admin do=resume of=pause request="\"news\"" who=carl node=a`,
		`level=INFO msg=admin do=resume of=limit request="\"far\"" who=carl node=a`)
	take()
	give("ann", Pause, strings.Repeat("x", 5000))
	if _, err := b.TakeAll(all(a)); err != nil {
		t.Fatal(err)
	}
	if got := lines(); len(got) != 1 || len(got[0]) > maxTold+100 || !strings.Contains(got[0], "…") {
		t.Errorf("of a long order: %q", got)
	}
	b, lines = logged(t, ca, "b", path)
	take()
}

// TestRefusalNamesTheNodeThatAnOrderClaims has a node with the certificate of another fleet's authority.
func TestRefusalNamesTheNodeThatAnOrderClaims(t *testing.T) {
	t.Parallel()
	ca, other := fleetca.New(t), fleetca.New(t)
	for _, what := range []string{"order", "report"} {
		b, lines := logged(t, ca, "b", "")
		stranger := open(t, other, other.Node(t, "mx3"), "mx3", "")
		issue(t, stranger, Pause, "all")
		if what == "order" {
			if n, _ := b.TakeAll(all(stranger)); n != 0 {
				t.Error("taken")
			}
		} else {
			line, err := stranger.Report("", "")
			if err != nil || b.TakeReport(line) == nil {
				t.Errorf("taken, %v", err)
			}
		}
		if got := lines(); len(got) != 1 || !strings.HasPrefix(got[0], "level=WARN ") || !strings.Contains(got[0], "node=mx3 ") || !strings.Contains(got[0], "millrace check") {
			t.Errorf("%s: %q", what, got)
		}
	}
}
