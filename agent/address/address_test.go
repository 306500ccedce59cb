package address

import (
	"net/mail"
	"strings"
	"testing"
)

func TestPlain(t *testing.T) {
	t.Parallel()
	for _, a := range []string{
		"a@b.example", "UPPER.Case@B.Example", "list-bounces+ann=gmail.com@lists.example", "a@xn--bcher-kva.example",
		"a%b!c@d.example", "{a}_'b'@c-d_e.example", strings.Repeat("a", 242) + "@b12.example",
	} {
		if !Plain(a) || !International(a) {
			t.Errorf("%q is not plain", a)
		}
	}
	for _, a := range []string{
		"", "a", "@b.example", "a@", "a@b", "a@b..example", "a@.b.example", "a@b.example.", ".a@b.example", "a.@b.example", "a..b@c.example",
		"<a@b.example>", "Ann <a@b.example>", " a@b.example", "a@b.example ", "a @b.example", "a@ b.example", "a@b.example (x)", "a(x)@b.example",
		"@relay.example:a@b.example", "a@b@c.example", `"a"@b.example`, `"a b"@c.example`, `a\@b@c.example`, "a,b@c.example", "a@[192.0.2.1]",
		"a@b.example\n", "a\r@b.example", "a\x00@b.example", "\"\x1b[2J\"@b.example", "a\x7f@b.example", "a\u009b@b.example", "a\xff@b.example",
		"a\u202eb@c.example", "a\u2028@b.example", "a@b\u202e.example", strings.Repeat("a", 243) + "@b12.example",
	} {
		if Plain(a) || International(a) {
			t.Errorf("%q is plain", a)
		}
	}
	for _, a := range []string{"jörg@b.example", "a@bücher.example"} {
		if Plain(a) || !International(a) {
			t.Errorf("%q: plain %v, international %v", a, Plain(a), International(a))
		}
	}
}

// FuzzPlain holds what is plain against another reader of addresses.
func FuzzPlain(f *testing.F) {
	for _, s := range []string{"a@b.example", "<a@b.example>", "a..b@c.example", "jörg@b.example", "\"\x1b\"@b.example", "@r.example:a@b.example", "a\u202e@b.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, a string) {
		if !International(a) {
			if Plain(a) {
				t.Fatalf("%q is plain, but not international", a)
			}
			return
		}
		for _, r := range a {
			if r <= ' ' || r >= 0x7f && (r < 0xa0 || Plain(a)) || strings.ContainsRune("()<>[]:;\\,\" \t", r) {
				t.Fatalf("%q has %q", a, r)
			}
		}
		if at := strings.IndexByte(a, '@'); at != strings.LastIndexByte(a, '@') {
			t.Fatalf("%q has two @", a)
		}
		if !Plain(a) {
			return
		}
		if got, err := mail.ParseAddress(a); err != nil || got.Address != a || got.Name != "" {
			t.Fatalf("%q is read as %v, %v", a, got, err)
		}
	})
}
