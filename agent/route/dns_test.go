package route

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// zone is a DNS as a literal: "name TYPE" to records without owner and class
// ("300 MX 10 mx.example.", "300 @other.example. A 192.0.2.1" for another
// owner), or to one RCODE, or to "TIMEOUT". A name with no entry at all does
// not exist; "SOA" is the authority of negative answers.
type zone map[string][]string

// fakeDNS answers from a zone and counts what it is asked.
type fakeDNS struct {
	mu    sync.Mutex
	zone  zone
	asked map[string]int
	plain func(key string) bool                       // whose answer is not validated; nil: nobody's is
	hold  func(ctx context.Context, key string) error // called before an answer
}

func newFake(z zone) *fakeDNS { return &fakeDNS{zone: z, asked: make(map[string]int)} }

func (f *fakeDNS) set(key string, records ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.zone[key] = records
}

func (f *fakeDNS) count(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[key]
}

func (f *fakeDNS) Exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	name := strings.TrimSuffix(m.Question[0].Name, ".")
	key := name + " " + dns.TypeToString[m.Question[0].Qtype]
	f.mu.Lock()
	f.asked[key]++
	f.mu.Unlock()
	if f.hold != nil {
		if err := f.hold(ctx, key); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	reply := new(dns.Msg)
	reply.SetReply(m)
	reply.AuthenticatedData = m.AuthenticatedData && f.plain != nil && !f.plain(key)
	records, has := f.zone[key]
	if len(records) == 1 {
		if records[0] == "TIMEOUT" {
			return nil, errors.New("i/o timeout")
		}
		if code, is := dns.StringToRcode[records[0]]; is {
			reply.Rcode = code
			return reply, nil
		}
	}
	for _, r := range records {
		reply.Answer = append(reply.Answer, record(name, r))
	}
	if !has {
		reply.Rcode = dns.RcodeNameError
		for k := range f.zone {
			if strings.HasPrefix(k, name+" ") {
				reply.Rcode = dns.RcodeSuccess
			}
		}
		for _, r := range f.zone["SOA"] {
			reply.Ns = append(reply.Ns, record("example", r))
		}
	}
	return reply, nil
}

func record(owner, text string) dns.RR {
	ttl, rest, _ := strings.Cut(text, " ")
	if strings.HasPrefix(rest, "@") {
		owner, rest, _ = strings.Cut(rest[1:], " ")
	}
	rr, err := dns.NewRR(dns.Fqdn(owner) + " " + ttl + " IN " + rest)
	if err != nil || rr == nil {
		panic("bad record in a test: " + text)
	}
	return rr
}

// documentation are the ranges the tests use as if they were ordinary ones.
var documentation = []netip.Prefix{
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("2001:db8::/32"),
}

func newResolver(t *testing.T, ex Exchanger, change ...func(*Options)) *Resolver {
	t.Helper()
	o := Options{Exchanger: ex, Allow: documentation}
	for _, c := range change {
		c(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// show writes a plan's hosts as "name/preference=addr,addr".
func show(p *Plan) string {
	var hosts []string
	for _, h := range p.Hosts {
		var addrs []string
		for _, a := range h.Addrs {
			addrs = append(addrs, a.String())
		}
		slices.Sort(addrs)
		hosts = append(hosts, h.Name+"="+strings.Join(addrs, ","))
	}
	return strings.Join(hosts, " ")
}

func reasonOf(t *testing.T, err error) Reason {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %v (%T), not an *Error", err, err)
	}
	return e.Reason
}
