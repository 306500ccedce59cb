package smtp

import (
	"strings"
	"testing"
)

func TestExtensionsAsServersWriteThem(t *testing.T) {
	t.Parallel()
	for offer, want := range map[string]Extensions{
		"pipelining|8BitMime|SmtpUtf8|dsn|StartTLS|enhancedstatuscodes|Chunking": {
			Pipelining: true, EightBitMIME: true, SMTPUTF8: true, DSN: true, StartTLS: true, EnhancedCodes: true, Chunking: true,
		},
		"SIZE":                      {Size: true},
		"SIZE 0":                    {Size: true},
		"size 1000":                 {Size: true, MaxSize: 1000},
		"SIZE much":                 {Size: true},
		"SIZE -1":                   {Size: true},
		"SIZE 99999999999999999999": {Size: true},
		"AUTH plain LOGIN GSSAPI":   {AuthPlain: true, AuthLogin: true},
		"AUTH":                      {},
		"LIMITS MAILMAX=100 RcptMax=50 RCPTDOMAINMAX=1": {MailMax: 100, RcptMax: 50},
		"limits":                           {},
		"LIMITS MAILMAX= RCPTMAX":          {},
		"LIMITS MAILMAX=0 RCPTMAX=1000000": {},
		"LIMITS MAILMAX=-1 RCPTMAX=+5":     {},
		"LIMITS RCPTMAX=999999":            {RcptMax: 999999},
		"LIMITS RCPTMAX=10 RCPTMAX=x":      {RcptMax: 10},
		"PIPELINING-X|XCHUNKING|| ":        {},
	} {
		var got Extensions
		for line := range strings.SplitSeq(offer, "|") {
			got.add([]byte(line), nil)
		}
		if got != want {
			t.Errorf("%q: %+v", offer, got)
		}
	}
}
