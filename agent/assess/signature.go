package assess

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/emersion/go-msgauth/dkim"
	"golang.org/x/net/publicsuffix"
)

const (
	// maxSignatures is how many of a report are looked at.
	maxSignatures = 5
	// maxLookups bounds the questions to the DNS for one report.
	maxLookups = 3
	// maxSignedFields and maxSignedNames bound how many fields the header of a report has whose
	// signatures are looked at, and how many names of fields all of them cover: each name is
	// looked for in all fields, so thousands of both took half a minute. Hosts write reports of
	// 20 to 80 fields, and signatures of 10 to 40 names.
	maxSignedFields = 200
	maxSignedNames  = 500
)

var errForeign = errors.New("not the receiver's domain")

// signature reports whether the report is signed by the receiver of a domain (RFC 6376):
// a signature holds whose domain has the same organizational domain, as DMARC has it (RFC
// 7489 section 3.1.1), and which covers the fields that say who writes and how the parts are
// to be read.
//
// A user of that receiver has his mail signed, too. So the report must be from one of its
// programs, by an address that it gives to none of its users.
func (j *judge) signature(ctx context.Context, domain string) bool {
	local, from, _ := strings.Cut(j.report.From, "@")
	if j.report.Ambiguous || !programs[local] && !strings.HasPrefix(local, "microsoftexchange329e71ec88ae4615bbc36ab6ce41109e") || !aligned(from, domain) {
		return false
	}
	if !signedAsUsual(j.message) || j.a.isSlow(domain, j.now) {
		return false
	}
	ctx, done := context.WithTimeout(ctx, lookUpFor)
	defer done()
	defer func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			j.a.tookLong(domain, j.now)
		}
	}()
	var asked atomic.Int32
	found, err := dkim.VerifyWithOptions(bytes.NewReader(j.message), &dkim.VerifyOptions{
		MaxVerifications: maxSignatures,
		LookupTXT: func(name string) ([]string, error) {
			// Nobody makes us ask for names that have nothing to do with it.
			if _, signer, ok := strings.Cut(name, "._domainkey."); !ok || !aligned(signer, domain) || asked.Add(1) > maxLookups {
				return nil, errForeign
			}
			return j.a.LookupKey(ctx, name)
		},
	})
	if err != nil && !errors.Is(err, dkim.ErrTooManySignatures) {
		return false
	}
	for _, v := range found {
		if v.Err == nil && aligned(v.Domain, domain) && aligned(v.Domain, from) && covers(v.HeaderKeys, "From") && covers(v.HeaderKeys, "Content-Type") {
			return true
		}
	}
	return false
}

// signedAsUsual reports whether the header of a message is within maxSignedFields and
// maxSignedNames. Names stand between colons (RFC 6376 section 3.5).
func signedAsUsual(message []byte) bool {
	fields, names, signature := 0, 0, false
	for line := range bytes.Lines(message) {
		switch line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'}); {
		case len(line) == 0:
			return true
		case line[0] != ' ' && line[0] != '\t':
			name, _, _ := bytes.Cut(line, []byte{':'})
			signature = bytes.EqualFold(bytes.TrimSpace(name), []byte("DKIM-Signature"))
			fields++
		}
		if signature {
			names += bytes.Count(line, []byte{':'})
		}
		if fields > maxSignedFields || names > maxSignedNames {
			return false
		}
	}
	return true
}

// programs are local parts under which hosts write reports and which are given to no user
// (RFC 2142, RFC 3464 section 2).
var programs = map[string]bool{"mailer-daemon": true, "postmaster": true, "mail-daemon": true, "abuse": true, "fbl": true, "feedback": true, "staff": true}

// aligned reports whether two domains have the same organizational domain.
func aligned(a, b string) bool {
	a, b = strings.ToLower(strings.TrimSuffix(a, ".")), strings.ToLower(strings.TrimSuffix(b, "."))
	if a == "" || b == "" {
		return false
	}
	if a == b {
		return true
	}
	x, err1 := publicsuffix.EffectiveTLDPlusOne(a)
	y, err2 := publicsuffix.EffectiveTLDPlusOne(b)
	return err1 == nil && err2 == nil && x == y
}

func covers(keys []string, name string) bool {
	for _, k := range keys {
		if strings.EqualFold(strings.TrimSpace(k), name) {
			return true
		}
	}
	return false
}
