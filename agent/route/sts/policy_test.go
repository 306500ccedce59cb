package sts

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPolicyDocuments(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       Policy
		wrong      string
	}{
		{"usual", "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n",
			Policy{Mode: Enforce, MX: []string{"mail.example.com", "*.example.net"}, MaxAge: 7 * 24 * time.Hour}, ""},
		{"bare LF, no last line end, odd blanks", "version:STSv1\nmode :  testing \nmx:MAIL.example.com.\nmax_age: 1",
			Policy{Mode: Testing, MX: []string{"mail.example.com"}, MaxAge: time.Second}, ""},
		{"none needs no mx", "version: STSv1\nmode: none\nmax_age: 60\n", Policy{Mode: None, MaxAge: time.Minute}, ""},
		{"unknown keys", "version: STSv1\nmode: enforce\nfuture: x\nmx: a.example\nmax_age: 60\n",
			Policy{Mode: Enforce, MX: []string{"a.example"}, MaxAge: time.Minute}, ""},
		{"the first of a key counts", "version: STSv1\nmode: enforce\nmode: none\nmx: a.example\nmax_age: 60\nmax_age: 1\n",
			Policy{Mode: Enforce, MX: []string{"a.example"}, MaxAge: time.Minute}, ""},
		{"too long an age", "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 4000000000\n",
			Policy{Mode: Enforce, MX: []string{"a.example"}, MaxAge: maxMaxAge}, ""},
		{"no version", "mode: enforce\nmx: a.example\nmax_age: 60\n", Policy{}, "no version"},
		{"another version", "version: STSv2\nmode: enforce\nmx: a.example\nmax_age: 60\n", Policy{}, "STSv2"},
		{"no mode", "version: STSv1\nmx: a.example\nmax_age: 60\n", Policy{}, "no mode"},
		{"another mode", "version: STSv1\nmode: strict\nmx: a.example\nmax_age: 60\n", Policy{}, "strict"},
		{"no age", "version: STSv1\nmode: enforce\nmx: a.example\n", Policy{}, "no max_age"},
		{"strange age", "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1\n", Policy{}, "max_age"},
		{"no mx", "version: STSv1\nmode: enforce\nmax_age: 60\n", Policy{}, "no mx"},
		{"mx of no host only", "version: STSv1\nmode: enforce\nmx: a..example\nmx: *\nmx: *.*.example\nmx: a b\nmx:\nmax_age: 60\n", Policy{}, "no mx"},
		{"a web page", "<html>\n<p>Not found", Policy{}, "key: value"},
		{"empty", "", Policy{}, "no version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := parsePolicy(tt.text)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("error %v, want %q", err, tt.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Mode != tt.want.Mode || p.MaxAge != tt.want.MaxAge || !slices.Equal(p.MX, tt.want.MX) {
				t.Errorf("%+v, want %+v", *p, tt.want)
			}
		})
	}
}

func TestWildcardsStandForOneLabel(t *testing.T) {
	t.Parallel()
	p := Policy{MX: []string{"mail.example.com", "*.example.net"}}
	for host, want := range map[string]bool{
		"mail.example.com": true, "MAIL.example.com.": true, "mx.mail.example.com": false, "example.com": false,
		"a.example.net": true, "a.b.example.net": false, "example.net": false, "*.example.net": true, "net": false, "": false,
	} {
		if got := p.Matches(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestRecordIDs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		records []string
		want    string
	}{
		{[]string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z"},
		{[]string{"v=STSv1;id=a"}, "a"},
		{[]string{"v=STSv1; x=y; id=a"}, "a"},
		{[]string{"v=spf1 -all", "v=STSv1; id=a;"}, "a"},
		{[]string{"v=STSv1; id=a;", "v=STSv1; id=b;"}, ""}, // not exactly one
		{[]string{"v=STSv10; id=a;"}, ""},
		{[]string{"id=a; v=STSv1"}, ""},
		{[]string{"v=STSv1; id=;"}, ""},
		{[]string{"v=STSv1; id=a-b;"}, ""},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""},
		{[]string{"v=STSv1"}, ""},
		{nil, ""},
	} {
		if got := recordID(tt.records); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.records, got, tt.want)
		}
	}
}

// Whatever a server sends, what was understood of it survives the disk.
func FuzzPolicy(f *testing.F) {
	f.Add("version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n")
	f.Add("version: STSv1\nmode: none\nmax_age: 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePolicy(text)
		if err != nil {
			return
		}
		p.ID, p.Fetched = "1", time.Now()
		d := files{dir: t.TempDir(), limit: 1, most: 1 << 20}
		if err := d.write("example.com", p); err != nil {
			t.Fatal(err)
		}
		got := d.read("example.com")
		if got == nil || got.Mode != p.Mode || got.MaxAge != p.MaxAge || !slices.Equal(got.MX, p.MX) {
			t.Errorf("%+v became %+v", p, got)
		}
	})
}
