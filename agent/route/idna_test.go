package route

import "testing"

func TestULabelsAreLookedUpAsALabels(t *testing.T) {
	t.Parallel()
	r := newResolver(t, newFake(zone{
		"xn--bcher-kva.example MX": {"300 MX 10 mx1.example."},
		"mx1.example A":            {"300 A 192.0.2.1"},
	}))
	for _, domain := range []string{"bücher.example", "BÜCHER.example.", "xn--BCHER-kva.example"} {
		p, err := r.Lookup(t.Context(), domain)
		if err != nil {
			t.Errorf("%s: %v", domain, err)
		} else if p.Domain != "xn--bcher-kva.example" {
			t.Errorf("%s became %s", domain, p.Domain)
		}
	}
	if _, err := r.Lookup(t.Context(), "\xff.example"); reasonOf(t, err) != NoAddress {
		t.Errorf("error %v", err)
	}
}
