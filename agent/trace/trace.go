// Package trace writes the Received field that Millrace puts on top of each
// message it sends, and recognises its own mark in the fields of others.
//
// The field is what the host MTA would have written for this hop, had it sent
// the message itself, with our name in its place. Its id is three words joined
// by dots: the host's queue id, the spool id, and a keyed hash of both. The
// hash makes the field the mark by which the milter knows mail that has been
// through this spool before, so it is never diverted a second time; nobody
// without the key can write it, and nothing has to be stripped.
//
// Behind the spool id, after a hyphen, stands what is sealed (seal.go): the day, the stream
// and the recipients of the transaction. Whoever gets the header of a message back, in a
// delivery report or a complaint, knows by it whom the copy was for, long after the message
// has left the spool, and though the report leaves the recipient out. The hash covers it, so a
// version that does not know of it knows the mark all the same.
//
// Everything here is a pure function of its arguments: each retry of a transaction
// writes the same octets.
package trace

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"strings"

	"github.com/millrace/millrace/agent/address"
	"github.com/millrace/millrace/agent/spool"
)

// maxWord bounds every word taken from the envelope, so no line of the field
// nears the 998 octets of RFC 5322 section 2.1.1.
const maxWord = 255

// macLen is the length of the mark's hash in octets, before hexadecimal.
const macLen = 10

// Received returns one Received field (RFC 5321 section 4.4) for a message,
// folded, each line ended by CRLF. hostname stands in where the envelope does
// not name the host MTA. The date is e.Arrived, in UTC. An envelope without a
// client gets a field without one: mail of sendmail(1), or a client to be hidden.
//
// The recipient is named only when the message has just one, as Postfix does: a field
// with several would show each of them the others. to are the ordinals of the transaction's
// recipients; they stand in the mark, sealed.
func Received(e *spool.Envelope, id spool.ID, hostname string, keys *Keys, to []uint32) []byte {
	var b strings.Builder
	b.WriteString("Received: ")
	if e.ClientAddr != "" || e.Helo != "" {
		b.WriteString("from " + word(e.Helo, "unknown") +
			" (" + word(e.ClientName, "unknown") + " [" + word(e.ClientAddr, "unknown") + "])\r\n\t")
	}
	by := e.ByHost
	if by == "" {
		by = hostname
	}
	b.WriteString("by " + word(by, "localhost") + " (Millrace)")
	if e.Protocol != "" {
		b.WriteString(" with " + word(e.Protocol, "SMTP"))
	}
	qid := queueID(e.QueueID)
	word := id.String()
	if text := keys.seals[0].sealed(e, word, qid, to); text != "" {
		word += "-" + text
	}
	b.WriteString("\r\n\tid " + qid + "." + word + "." + mac(keys.Loop, word, qid))
	if len(e.Recipients) == 1 && address.Plain(e.Recipients[0].Address) {
		b.WriteString("\r\n\tfor <" + e.Recipients[0].Address + ">")
	}
	b.WriteString(";\r\n\t" + e.Arrived.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700 (MST)") + "\r\n")
	return []byte(b.String())
}

// Marked reports whether a Received field's value carries our mark. Folding may
// be CRLF or LF, and other hops may have refolded the field.
func Marked(received string, key []byte) bool {
	for qid, rest := range ids(received) {
		id, sum, _ := strings.Cut(rest, ".")
		if hmac.Equal([]byte(mac(key, id, qid)), []byte(sum)) {
			return true
		}
	}
	return false
}

// ids are the words after "id" that have the form of our mark: the host's queue id, and
// what follows.
func ids(received string) iter.Seq2[string, string] {
	return func(yield func(qid, rest string) bool) {
		before := ""
		for w := range strings.FieldsFuncSeq(received, func(r rune) bool {
			return r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == ';'
		}) {
			qid, rest, ok := strings.Cut(w, ".")
			if ok && strings.EqualFold(before, "id") && strings.Count(rest, ".") == 1 && !yield(qid, rest) {
				return
			}
			before = w
		}
	}
}

// mac is the keyed hash over the two ids, the sealed part with the second, as they are
// written in the field.
func mac(key []byte, id, qid string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(id + "\x00" + qid))
	return hex.EncodeToString(h.Sum(nil)[:macLen])
}

// word makes one word fit to stand inside or outside a comment: what is not a
// letter, a digit or one of a name's or an address literal's own marks becomes
// a question mark. Nothing that ends a line, opens a comment or starts a new
// clause is left.
func word(s, empty string) string {
	if s == "" {
		return empty
	}
	b := []byte(s[:min(len(s), maxWord)])
	for i, c := range b {
		if !alnum(c) && strings.IndexByte("-._:[]", c) < 0 {
			b[i] = '?'
		}
	}
	return string(b)
}

// queueID keeps the host's queue id to what queue ids are made of, so the mark
// can be read back: no dots, no blanks.
func queueID(s string) string {
	b := []byte(s[:min(len(s), maxWord)])
	for i, c := range b {
		if !alnum(c) && c != '-' && c != '_' {
			b[i] = '_'
		}
	}
	if len(b) == 0 {
		return "NOQUEUE"
	}
	return string(b)
}

func alnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
