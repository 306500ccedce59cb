package smtp

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/millrace/millrace/agent/address"
)

// appendMail appends the MAIL command with the arguments this peer takes.
func (c *Conn) appendMail(b []byte, tx *Tx) []byte {
	b = append(b, "MAIL FROM:<"...)
	b = append(b, written(tx, tx.Sender)...)
	b = append(b, '>')
	if c.ext.Size && tx.Size > 0 {
		b = append(b, " SIZE="...)
		b = strconv.AppendInt(b, tx.Size, 10)
	}
	if c.ext.EightBitMIME && tx.EightBit {
		b = append(b, " BODY=8BITMIME"...)
	}
	if c.ext.SMTPUTF8 && needsUTF8(tx) {
		b = append(b, " SMTPUTF8"...)
	}
	for _, a := range tx.Args {
		if c.passes(a, "RET") || c.passes(a, "ENVID") {
			b = append(append(b, ' '), a...)
		}
	}
	return append(b, "\r\n"...)
}

// appendRcpt appends the RCPT command for one recipient.
func (c *Conn) appendRcpt(b []byte, tx *Tx, r *Rcpt) []byte {
	b = append(b, "RCPT TO:<"...)
	b = append(b, written(tx, r.Address)...)
	b = append(b, '>')
	for _, a := range r.Args {
		if c.passes(a, "NOTIFY") || c.passes(a, "ORCPT") {
			b = append(append(b, ' '), a...)
		}
	}
	return append(b, "\r\n"...)
}

// passes tells whether arg is the DSN argument keyword and fit for this peer.
func (c *Conn) passes(arg, keyword string) bool {
	if !c.ext.DSN || !hasKeyword(arg, keyword) || (!c.ext.SMTPUTF8 && !isASCII(arg)) {
		return false
	}
	for i := range len(arg) {
		if arg[i] <= ' ' || arg[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(arg)
}

// hasKeyword tells whether arg is keyword or keyword=value.
func hasKeyword(arg, keyword string) bool {
	k, _, _ := strings.Cut(arg, "=")
	return strings.EqualFold(k, keyword)
}

// needsUTF8 tells whether a transaction must be declared SMTPUTF8 where that is
// offered: for an address or argument beyond ASCII, or because the client did. What is
// said as the client said it is declared as the client declared it.
func needsUTF8(tx *Tx) bool {
	if tx.AsTaken || declaresUTF8(tx) {
		return declaresUTF8(tx)
	}
	if !isASCII(aLabels(tx.Sender)) {
		return true
	}
	for _, a := range tx.Args {
		if !isASCII(a) {
			return true
		}
	}
	for i := range tx.Recipients {
		r := &tx.Recipients[i]
		if !isASCII(aLabels(r.Address)) {
			return true
		}
		for _, a := range r.Args {
			if !isASCII(a) {
				return true
			}
		}
	}
	return false
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// declaresUTF8 tells whether the client declared its message SMTPUTF8.
func declaresUTF8(tx *Tx) bool {
	for _, a := range tx.Args {
		if hasKeyword(a, "SMTPUTF8") {
			return true
		}
	}
	return false
}

// aLabels writes the domain of an address in A-labels (RFC 5891) where that
// makes the address ASCII: then it goes to any server. A local part beyond ASCII
// needs SMTPUTF8 anyway, and then the domain may stay as it is.
func aLabels(a string) string {
	if isASCII(a) {
		return a
	}
	at := strings.LastIndexByte(a, '@') + 1
	if !isASCII(a[:at]) {
		return a
	}
	domain, err := idna.Lookup.ToASCII(a[at:])
	if err != nil {
		return a
	}
	return a[:at] + domain
}

// usable says why an address cannot go to this peer, nil if it can.
func (c *Conn) usable(tx *Tx, a string) error {
	switch {
	case tx.AsTaken:
		if a == "" || strings.ContainsAny(a, "\n\x00") { // no client could have said that
			return ErrBadAddress
		}
	case !address.International(a):
		return ErrBadAddress
	case !c.ext.SMTPUTF8 && !isASCII(aLabels(a)):
		return ErrNeedsSMTPUTF8
	}
	return nil
}

// written is an address as it stands in a command.
func written(tx *Tx, a string) string {
	if tx.AsTaken {
		return a
	}
	return aLabels(a)
}

// isHello tells whether s can be the argument of EHLO: one word in printable ASCII.
func isHello(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(`"<>`, s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}
