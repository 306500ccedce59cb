package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

// records is the part of the DNS that SPF asks.
type records interface {
	names
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
}

// use is a pool that mail of a sender's domain leaves from.
type use struct{ domain, pool string }

const (
	// mostSeen and mostUses bound what of the spool is looked at.
	mostSeen = 10_000
	mostUses = 50
)

// seen are the sender domains of mail in the spool, and the pools that it leaves from.
func seen(c *config.Config) (list []use) {
	if len(c.Pools) == 0 {
		return nil
	}
	r, err := spool.OpenReader(c.Spool.Directory)
	if err != nil {
		return nil // who may not read it hears of nothing there
	}
	defer r.Close()
	set := &settings.Settings{Config: c}
	n := 0
	_ = r.Messages(func(m *spool.Message) error {
		if n++; n > mostSeen || len(list) >= mostUses {
			return errEnough
		}
		e := m.Envelope
		if e == nil || e.Sender == "" || e.Origin != spool.Diverted {
			return nil
		}
		for i := range e.Recipients {
			to := settings.Domain(e.Recipients[i].Address)
			f, err := pools.Parse(set.FromOf(e, i, to))
			if err != nil {
				continue
			}
			if f.Pool == "" {
				f.Pool = set.QueueOf(to).Pool
			}
			if x := (use{settings.Domain(e.Sender), f.Pool}); x.domain != "" && x.pool != "" && !slices.Contains(list, x) {
				list = append(list, x)
			}
		}
		return nil
	})
	return list
}

var errEnough = errors.New("enough was seen")

// uncovered says which addresses mail of a domain leaves from although the domain's SPF record
// (RFC 7208) says that it does not. A domain without a record is left out, and so is one
// whose record cannot be evaluated here.
func uncovered(ctx context.Context, c *config.Config, list []use, dns records) (wrong []string) {
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	for _, x := range list {
		p := c.PoolNamed(x.pool)
		if p == nil {
			continue
		}
		var without []string
		for _, a := range p.Addresses {
			if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
				continue
			}
			s := spf{dns: dns, addr: a}
			if got, known := s.check(ctx, x.domain); known && got != '+' {
				without = append(without, a.String())
			}
		}
		if len(without) > 0 {
			wrong = append(wrong, fmt.Sprintf("mail of %s leaves from pool %q, and the SPF record of %s does not have %s: receivers take it for forged; remedy: add them to the record, or have another pool for this mail",
				x.domain, x.pool, x.domain, strings.Join(without, ", ")))
		}
	}
	return wrong
}

// spf evaluates one record for one address (RFC 7208 section 4).
type spf struct {
	dns   records
	addr  netip.Addr
	terms int // that asked the DNS
}

// mostTerms is how many terms of a record, and of those it includes, may ask the DNS (RFC 7208
// section 4.6.4).
const mostTerms = 10

// errUnclear ends an evaluation that cannot be made: macros, errors, no record.
var errUnclear = errors.New("the record cannot be evaluated")

// check is what a domain's record says of the address: '+', '-', '~' or '?'. It is not known
// where there is no record, or it has what only a message in transit would tell.
func (s *spf) check(ctx context.Context, domain string) (result byte, known bool) {
	result, err := s.evaluate(ctx, domain)
	return result, err == nil
}

func (s *spf) evaluate(ctx context.Context, domain string) (byte, error) {
	texts, err := s.dns.LookupTXT(ctx, domain)
	if err != nil {
		return 0, err
	}
	record := ""
	for _, text := range texts {
		if text == "v=spf1" || strings.HasPrefix(text, "v=spf1 ") {
			if record != "" {
				return 0, errUnclear // two are none (section 4.5)
			}
			record = text
		}
	}
	if record == "" {
		return 0, errUnclear
	}
	redirect := ""
	for _, term := range strings.Fields(record)[1:] {
		name, value, isModifier := strings.Cut(term, "=")
		if isModifier && !strings.ContainsAny(name, ":/") {
			if strings.EqualFold(name, "redirect") {
				redirect = value
			}
			continue
		}
		result := byte('+')
		if strings.IndexByte("+-~?", term[0]) >= 0 {
			result, term = term[0], term[1:]
		}
		fits, err := s.mechanism(ctx, domain, term)
		if err != nil {
			return 0, err
		}
		if fits {
			return result, nil
		}
	}
	if redirect != "" {
		if err := s.ask(redirect); err != nil {
			return 0, err
		}
		return s.evaluate(ctx, redirect)
	}
	return '?', nil
}

// ask counts a term that asks the DNS for a name, which must not have macros.
func (s *spf) ask(name string) error {
	if s.terms++; s.terms > mostTerms || strings.Contains(name, "%") {
		return errUnclear
	}
	return nil
}

// mechanism says whether a mechanism fits the address.
func (s *spf) mechanism(ctx context.Context, domain, term string) (bool, error) {
	kind, rest := term, ""
	if i := strings.IndexAny(term, ":/"); i >= 0 {
		kind, rest = term[:i], term[i:]
	}
	switch kind = strings.ToLower(kind); kind {
	case "all":
		return true, nil
	case "ip4", "ip6":
		text := strings.TrimPrefix(rest, ":")
		if a, err := netip.ParseAddr(text); err == nil {
			return a.Unmap() == s.addr, nil
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return false, errUnclear
		}
		return p.Contains(s.addr), nil
	case "include":
		name := strings.TrimPrefix(rest, ":")
		if err := s.ask(name); err != nil {
			return false, err
		}
		result, err := s.evaluate(ctx, name)
		return result == '+', err
	case "a", "mx":
		name, bits, err := target(domain, rest, s.addr.Is4())
		if err == nil {
			err = s.ask(name)
		}
		if err != nil {
			return false, err
		}
		hosts := []string{name}
		if kind == "mx" {
			list, err := s.dns.LookupMX(ctx, name)
			if err != nil && !notFound(err) {
				return false, err
			}
			hosts = nil
			for _, mx := range list {
				hosts = append(hosts, mx.Host)
			}
		}
		for _, host := range hosts {
			addrs, err := s.dns.LookupNetIP(ctx, "ip", host)
			if err != nil && !notFound(err) {
				return false, err
			}
			for _, a := range addrs {
				if p, err := s.addr.Prefix(bits); err == nil && p.Contains(a.Unmap()) {
					return true, nil
				}
			}
		}
		return false, nil
	}
	return false, errUnclear // ptr and exists need a message in transit
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

// target is the name and the length of prefix of "a" or "mx": ":domain/24//64", each part of which
// may be missing (RFC 7208 section 5.6).
func target(domain, rest string, is4 bool) (name string, bits int, err error) {
	name, rest, found := strings.Cut(rest, "/")
	if name = strings.TrimPrefix(name, ":"); name == "" {
		name = domain
	}
	bits = 128
	if is4 {
		bits = 32
	}
	if !found {
		return name, bits, nil
	}
	four, six, dual := strings.Cut(rest, "/")
	if dual {
		six = strings.TrimPrefix(six, "/")
	}
	text := six
	if is4 {
		text = strings.TrimSuffix(four, "/")
	}
	if text == "" {
		return name, bits, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > bits {
		return "", 0, errUnclear
	}
	return name, n, nil
}
