package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPoolsAndWhoNamesThem(t *testing.T) {
	t.Parallel()
	c, notices := load(t, `
[[pool]]
name = "news"
addresses = ["192.0.2.1", "2001:db8::1"]
hostnames = ["out1.example.com", "out2.example.com"]
weights = [1, 3]
on_block = "others"
[[pool]]
name = "orders"
addresses = ["192.0.2.9", "2001:db8::9"]
[general]
pool = "orders"
[[queue]]
name = "google"
mx = ["*.google.com"]
max_sessions = 30
pool = "news"
spread = "recipient"
[[queue]]
name = "other"
domains = ["other.example"]
max_sessions_total = 25
[[milter.rule]]
name = "r"
action = "divert"
min_recipients = 2
pool = "news"
`)
	news := c.PoolNamed("news")
	if news == nil || !slices.Equal(news.Addresses, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}) ||
		!slices.Equal(news.Hostnames, []string{"out1.example.com", "out2.example.com"}) || !slices.Equal(news.Weights, []int{1, 3}) || news.OnBlock != BlockOthers {
		t.Fatalf("%+v", news)
	}
	if p := c.PoolNamed("orders"); p.OnBlock != BlockWait || p.Weights != nil {
		t.Errorf("%+v", p)
	}
	for name, want := range map[string]Queue{
		"general": {Pool: "orders", MaxSessionsTotal: 40},
		"google":  {Pool: "news", MaxSessionsTotal: 60, Spread: SpreadRecipient},
		"other":   {Pool: "orders", MaxSessionsTotal: 25},
	} {
		if q := c.Queue(name); q.Pool != want.Pool || q.MaxSessionsTotal != want.MaxSessionsTotal || q.Spread != want.Spread {
			t.Errorf("%s: %+v", name, q)
		}
	}
	if r := c.Milter.Rules[0]; r.Pool != "news" {
		t.Errorf("%+v", r)
	}
	// Two pools in one /64: they start, and the admin is told.
	if len(notices) != 2 || !strings.Contains(notices[1].String(), "2001:db8::9 is of the same /64 as 2001:db8::1 of pool \"news\"") {
		t.Errorf("%v", notices)
	}
}

// Whom a queue spreads is known of its listed domains alone.
func TestSpreadWithoutDomainsIsRemarked(t *testing.T) {
	t.Parallel()
	_, notices := load(t, "[[queue]]\nname = \"far\"\nmx = [\"*.far.example\"]\nspread = \"recipient\"\n")
	if len(notices) != 1 || !strings.Contains(notices[0].String(), "millrace.toml:5: spread: queue \"far\" lists no domains") {
		t.Errorf("%v", notices)
	}
}

// Without [[pool]] nothing bounds the sessions of all sources together, as ever.
func TestNoPoolNoTotal(t *testing.T) {
	t.Parallel()
	c, _ := load(t, "[agent]\nsource_addresses = [\"192.0.2.1\", \"192.0.2.2\"]\n")
	if n := c.General.MaxSessionsTotal; n != 0 {
		t.Errorf("%d", n)
	}
}

func TestStreamsByGlobs(t *testing.T) {
	t.Parallel()
	c, _ := load(t, `
[[pool]]
name = "news"
addresses = ["192.0.2.1"]
[[stream]]
name = "weekly"
streams = ["news-*", "weekly"]
pool = "news"
priority = 5
max_message_rate = "20/s"
quotas = ["5000/h", "50000/d"]
provider_quotas = ["1000/h"]
window = "Mon-Fri 08:00-20:00 Europe/Berlin"
expire = "2d"
expire_always = true
[[stream]]
name = "news-2"
window = "22:00-06:00"
zone = "Asia/Tokyo"
[[stream]]
name = "rest"
streams = ["*"]
quotas = ["10/d"]
zone = "UTC"
`)
	s := c.StreamOf("News-7")
	if s == nil || s.Name != "weekly" || s.Pool != "news" || s.Priority != 5 || s.MaxMessageRate != 20 ||
		!slices.Equal(s.Quotas, []Quota{{5000, false}, {50000, true}}) || !slices.Equal(s.ProviderQuotas, []Quota{{1000, false}}) ||
		s.Expire != 48*time.Hour || !s.ExpireAlways || s.Location.String() != "Europe/Berlin" || s.Open.Open(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)) {
		t.Fatalf("%+v", s)
	}
	if s := c.StreamOf("news-2"); s.Name != "weekly" {
		t.Errorf("the first does not win: %+v", s)
	}
	if s := c.Streams[1]; !slices.Equal(s.Streams, []string{"news-2"}) || s.Open.Zone().String() != "Asia/Tokyo" || s.Location.String() != "Asia/Tokyo" {
		t.Errorf("%+v", s)
	}
	if s := c.StreamOf("x"); s.Name != "rest" || s.Location != time.UTC {
		t.Errorf("%+v", s)
	}
}

func TestRejectingRoute(t *testing.T) {
	t.Parallel()
	c, _ := load(t, "[[queue]]\nname = \"never\"\nmx = [\"*.never.example\"]\nroute = \"reject: 550 5.7.1 we send no mail there\"\n")
	if r := c.Queues[0].Route; r.Kind != RouteReject || r.Reject != "550 5.7.1 we send no mail there" {
		t.Errorf("%+v", r)
	}
}
