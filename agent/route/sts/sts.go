// Package sts knows the MTA-STS policies of domains (RFC 8461): which of their
// mail exchangers may be used, and that these must show a valid certificate.
//
// It owns the discovery, the fetch and the cache. A Store is made by Open and
// asked with Policy each time a domain is routed:
//
//	TXT at _mta-sts.DOMAIN -> same id as the policy at hand? -> it counts
//	                       -> else GET https://mta-sts.DOMAIN/.well-known/mta-sts.txt
//
// The rule that matters when something fails: a policy at hand counts until its
// max_age is over, whatever becomes of the record or the fetch since; that is
// all an attacker who can block both would want to end. Only a new valid policy
// replaces it (mode "none" is how a domain ends it). Where there was no policy,
// a failed fetch means that there is none now.
//
// Policies lie on disk, one small file for each domain under a hash of its name,
// written whole and renamed into place, so they outlive a restart. Each question
// reads its file; the number of files is bounded, and what they take on the disk. A failed fetch is not tried
// again for some minutes (section 3.3). A policy at hand is fetched anew once a
// day, or at half its max_age, so that a domain we keep writing to does not
// fall out of the cache (section 10.2).
package sts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// fetchTimeout bounds a fetch as a whole. RFC 8461 suggests a minute; mail
	// waits meanwhile.
	fetchTimeout = 20 * time.Second
	maxBody      = 64 << 10
	retryAfter   = 5 * time.Minute // a failed fetch
	refreshAfter = 24 * time.Hour
	maxFailures  = 10_000 // remembered
)

// Options are what a Store needs.
type Options struct {
	// Directory holds the policies; it is made if need be.
	Directory string
	// TXT looks TXT records up: none and no error if there are none.
	TXT func(ctx context.Context, name string) ([]string, error)
	// Dial connects to "host:port" for a fetch, past the addresses that must not
	// be connected to.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Roots are the authorities trusted for a fetch; nil: the system's.
	Roots *x509.CertPool
	// MaxPolicies bounds the files; default 10,000. Those fetched longest ago make room.
	MaxPolicies int
	// MaxOctets bounds what they take on the disk, in blocks of 4 KiB; default 64 MiB, which
	// is room for 10,000 ordinary ones and more. A policy may have up to 64 KiB.
	MaxOctets int64
	Log       *slog.Logger     // default: silent
	Now       func() time.Time // default time.Now
}

// Store finds policies. Its methods may be called by many goroutines.
type Store struct {
	o      Options
	files  files
	client *http.Client

	mu     sync.Mutex
	failed map[string]time.Time // domain -> when its fetch failed last
}

// Open returns a Store. A directory that cannot be used is no error: it is
// logged, and every policy is fetched anew each time.
func Open(o Options) *Store {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxPolicies <= 0 {
		o.MaxPolicies = 10_000
	}
	if o.MaxOctets <= 0 {
		o.MaxOctets = 64 << 20
	}
	s := &Store{o: o, files: files{dir: o.Directory, limit: o.MaxPolicies, most: o.MaxOctets}, failed: make(map[string]time.Time)}
	if err := s.files.open(); err != nil {
		o.Log.Warn("MTA-STS policies will not outlive this run; give agent.state_directory to the agent's user", "err", err)
	}
	s.client = &http.Client{
		Timeout: fetchTimeout,
		// Section 3.3: redirects are not followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            o.Dial,
			TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxBody,
		},
	}
	return s
}

// ErrFetch says that a policy is announced that was not fetched.
var ErrFetch = errors.New("its MTA-STS policy is to be fetched")

// Policy returns the policy in force for a domain (lower case A-labels), nil if
// there is none. It may ask the DNS and fetch; what fails is logged, once in a
// while, and never an error: the policy at hand counts, or none. Without fetch it asks
// the DNS alone, and where it would fetch the error is ErrFetch, beside the policy at hand.
func (s *Store) Policy(ctx context.Context, domain string, fetch bool) (*Policy, error) {
	now := s.o.Now()
	have := s.files.read(domain)
	if have != nil && !now.Before(have.Expires()) {
		have = nil
	}
	records, err := s.o.TXT(ctx, "_mta-sts."+domain)
	if err != nil {
		return have, nil
	}
	id := recordID(records)
	if id == "" || have != nil && have.ID == id && now.Sub(have.Fetched) < have.refresh() {
		return have, nil
	}
	if s.failedLately(domain, now) {
		return have, nil
	}
	if !fetch {
		return have, ErrFetch
	}
	p, err := s.fetch(ctx, domain)
	if err != nil {
		if ctx.Err() != nil {
			return have, nil // our own haste is no failure of theirs
		}
		s.noteFailure(domain, now)
		s.o.Log.Warn("MTA-STS policy cannot be fetched", "domain", domain, "err", err, "kept", have != nil)
		return have, nil
	}
	p.ID, p.Fetched = id, now
	if err := s.files.write(domain, p); err != nil {
		s.o.Log.Warn("MTA-STS policy cannot be stored", "domain", domain, "err", err)
	}
	return p, nil
}

// fetch gets a domain's policy (RFC 8461 section 3.3).
func (s *Store) fetch(ctx context.Context, domain string) (*Policy, error) {
	url := "https://mta-sts." + domain + "/.well-known/mta-sts.txt"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "Millrace")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || !strings.EqualFold(kind, "text/plain") {
		return nil, fmt.Errorf("GET %s: content type %q is not text/plain", url, clip(resp.Header.Get("Content-Type")))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", url, err)
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("GET %s: %w", url, errors.New("the policy is longer than 64 KiB"))
	}
	p, err := parsePolicy(string(body))
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", url, err)
	}
	return p, nil
}

func (s *Store) failedLately(domain string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.failed[domain]
	return ok && now.Before(at.Add(retryAfter))
}

func (s *Store) noteFailure(domain string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failed) >= maxFailures {
		for d, at := range s.failed {
			if !now.Before(at.Add(retryAfter)) {
				delete(s.failed, d)
			}
		}
		for d := range s.failed { // all of them recent: any may go
			if len(s.failed) < maxFailures {
				break
			}
			delete(s.failed, d)
		}
	}
	s.failed[domain] = now
}
