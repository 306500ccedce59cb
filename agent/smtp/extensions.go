package smtp

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// Extensions are what the peer's EHLO reply offers; all zero after HELO.
type Extensions struct {
	Pipelining    bool  // RFC 2920
	Size          bool  // RFC 1870
	MaxSize       int64 // octets of a message at most; 0: the peer named no limit
	EightBitMIME  bool  // RFC 6152
	SMTPUTF8      bool  // RFC 6531
	DSN           bool  // RFC 3461
	StartTLS      bool  // RFC 3207
	AuthPlain     bool  // RFC 4954: AUTH PLAIN
	AuthLogin     bool  // AUTH LOGIN, never a standard, often the only one
	EnhancedCodes bool  // RFC 2034
	Chunking      bool  // RFC 3030
	MailMax       int   // RFC 9422: transactions of a connection at most; 0: the peer named no limit
	RcptMax       int   // RFC 9422: recipients of a transaction at most; 0: the peer named no limit
}

// add takes one line of an EHLO reply in, "SIZE 1000000", unless it is to be ignored.
// Keywords are case insensitive (RFC 5321 4.1.1.1), unknown ones are passed over. One may
// end in an equals sign, as early drafts of AUTH had it; smtp(8) takes it so (smtp_proto.c).
func (e *Extensions) add(line []byte, ignore []string) {
	f := bytes.Fields(line)
	if len(f) > 0 {
		if word, rest, ok := bytes.Cut(f[0], []byte("=")); ok {
			f = append(append([][]byte{word}, rest), f[1:]...)
		}
	}
	if len(f) == 0 || slices.ContainsFunc(ignore, func(k string) bool { return strings.EqualFold(k, string(f[0])) }) {
		return
	}
	switch string(bytes.ToUpper(f[0])) {
	case "PIPELINING":
		e.Pipelining = true
	case "SIZE":
		e.Size = true
		if len(f) > 1 {
			// A limit that is no number is no limit: the server will say.
			if n, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil && n > 0 {
				e.MaxSize = n
			}
		}
	case "8BITMIME":
		e.EightBitMIME = true
	case "SMTPUTF8":
		e.SMTPUTF8 = true
	case "DSN":
		e.DSN = true
	case "STARTTLS":
		e.StartTLS = true
	case "CHUNKING":
		e.Chunking = true
	case "LIMITS":
		for _, l := range f[1:] {
			e.limit(l)
		}
	case "AUTH":
		for _, m := range f[1:] {
			switch string(bytes.ToUpper(m)) {
			case "PLAIN":
				e.AuthPlain = true
			case "LOGIN":
				e.AuthLogin = true
			}
		}
	case "ENHANCEDSTATUSCODES":
		e.EnhancedCodes = true
	}
}

// limit takes one limit in, "RCPTMAX=50". A limit that is no number of one to six
// digits counts as not named (RFC 9422 4).
func (e *Extensions) limit(l []byte) {
	name, value, _ := bytes.Cut(l, []byte("="))
	n, err := strconv.ParseUint(string(value), 10, 32)
	if err != nil || n == 0 || len(value) > 6 {
		return
	}
	switch string(bytes.ToUpper(name)) {
	case "MAILMAX":
		e.MailMax = int(n)
	case "RCPTMAX":
		e.RcptMax = int(n)
	}
}
