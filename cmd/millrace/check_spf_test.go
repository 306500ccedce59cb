package main

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
)

// spfZone is a zone with TXT and MX records.
type spfZone struct {
	zone
	txt, mx map[string][]string
}

func (z spfZone) LookupTXT(_ context.Context, name string) ([]string, error) {
	if z.txt[name] == nil {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return z.txt[name], nil
}

func (z spfZone) LookupMX(_ context.Context, name string) (list []*net.MX, err error) {
	for _, host := range z.mx[name] {
		list = append(list, &net.MX{Host: host})
	}
	return list, nil
}

// The examples of RFC 7208 appendix A, and what goes beyond them.
func TestSPFCoversAnAddress(t *testing.T) {
	t.Parallel()
	z := spfZone{
		zone: zone{forward: map[string][]string{
			"example.com": {"192.0.2.10", "192.0.2.11"}, "mail-a.example.com": {"192.0.2.129"}, "mail-b.example.com": {"192.0.2.130"},
			"amy.example.com": {"192.0.2.65"}, "mail-c.example.org": {"192.0.2.140"}, "six.example": {"2001:db8::5"},
		}},
		mx: map[string][]string{"example.com": {"mail-a.example.com", "mail-b.example.com"}, "example.org": {"mail-c.example.org"}},
		txt: map[string][]string{
			"deep.example": {"v=spf1 include:deep.example -all"}, "org.example": {"other text", "v=spf1 ip4:192.0.2.140 -all"},
			"two.example": {"v=spf1 +all", "v=spf1 -all"}, "none.example": {"v=spf10 +all"},
		},
	}
	for _, tt := range []struct {
		record, addr string
		want         string // "" is not known
	}{
		{"v=spf1 +all", "192.0.2.129", "+"},
		{"v=spf1 a -all", "192.0.2.10", "+"},
		{"v=spf1 a -all", "192.0.2.12", "-"},
		{"v=spf1 a:example.org -all", "192.0.2.10", "-"},
		{"v=spf1 mx -all", "192.0.2.129", "+"},
		{"v=spf1 mx:example.org -all", "192.0.2.140", "+"},
		{"v=spf1 mx mx:example.org -all", "192.0.2.131", "-"},
		{"v=spf1 mx/30 mx:example.org/30 -all", "192.0.2.131", "+"},
		{"v=spf1 mx/30 mx:example.org/30 -all", "192.0.2.143", "+"},
		{"v=spf1 ip4:192.0.2.128/28 -all", "192.0.2.65", "-"},
		{"v=spf1 ip4:192.0.2.128/28 ~all", "192.0.2.129", "+"},
		{"v=spf1 ip4:192.0.2.1 ~all", "192.0.2.129", "~"},
		{"v=spf1 ip4:192.0.2.1", "192.0.2.129", "?"},
		{"v=spf1 ip6:2001:db8::/32 -all", "2001:db8::1", "+"},
		{"v=spf1 a:six.example/24//64 -all", "2001:db8::ffff", "+"},
		{"v=spf1 a:six.example//128 -all", "2001:db8::ffff", "-"},
		{"v=spf1 include:org.example -all", "192.0.2.140", "+"},
		{"v=spf1 include:org.example ~all", "192.0.2.141", "~"},
		{"v=spf1 redirect=org.example", "192.0.2.141", "-"},
		{"v=spf1 exp=explain.example -ip4:192.0.2.1 +all", "192.0.2.1", "-"},
		{"v=spf1 include:deep.example -all", "192.0.2.1", ""},
		{"v=spf1 include:none.example -all", "192.0.2.1", ""},
		{"v=spf1 include:two.example -all", "192.0.2.1", ""},
		{"v=spf1 include:missing.example -all", "192.0.2.1", ""},
		{"v=spf1 exists:%{i}.example -all", "192.0.2.1", ""},
		{"v=spf1 a:%{d}.example -all", "192.0.2.1", ""},
		{"v=spf1 ip4:none -all", "192.0.2.1", ""},
		{"v=spf1 mx/99 -all", "192.0.2.1", ""},
	} {
		z.txt["example.com"] = []string{tt.record}
		s := spf{dns: z, addr: netip.MustParseAddr(tt.addr)}
		got, known := s.check(t.Context(), "example.com")
		if known != (tt.want != "") || known && string(got) != tt.want {
			t.Errorf("%q, %s: %c, %v, want %q", tt.record, tt.addr, got, known, tt.want)
		}
	}
}

// Sender domains are those of mail in the spool, and each is looked at for the pool that its mail
// leaves from.
func TestCheckLooksAtSendersThatWereSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/spool"
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, e := range []spool.Envelope{{Sender: "bounce@good.example", Stream: "news-1"}, {Sender: "bounce@bad.example", Stream: "news-1"}, {Sender: "shop@bad.example", Stream: "orders"}} {
		e.Arrived, e.Recipients = time.Now(), []spool.Recipient{{Address: "a@b.example"}}
		r, err := w.Append(t.Context(), &e, strings.NewReader("Subject: x\r\n\r\nx\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Release(); err != nil {
			t.Fatal(err)
		}
	}
	c := &config.Config{
		Spool: config.Spool{Directory: dir},
		Pools: []config.Pool{
			{Name: "news", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}},
			{Name: "orders", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.9")}},
		},
		Streams: []config.Stream{{Name: "news", Streams: []string{"news-*"}, Pool: "news"}},
		General: config.Queue{Name: "general", Pool: "orders"},
	}
	z := spfZone{txt: map[string][]string{"good.example": {"v=spf1 ip4:198.51.100.0/24 -all"}, "bad.example": {"v=spf1 ip4:198.51.100.1 ip4:198.51.100.9 -all"}}}
	list := seen(c)
	if len(list) != 3 {
		t.Errorf("seen: %+v", list)
	}
	got := uncovered(t.Context(), c, list, z)
	if len(got) != 1 || !strings.Contains(got[0], `mail of bad.example leaves from pool "news"`) || !strings.Contains(got[0], "does not have 198.51.100.2:") {
		t.Errorf("%q", got)
	}
	c.Spool.Directory = dir + "/none"
	if list := seen(c); list != nil {
		t.Errorf("without a spool: %+v", list)
	}
}
