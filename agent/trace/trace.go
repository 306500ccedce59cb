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
// After the id, as a comment, stands what is sealed (seal.go): the day, the stream and the
// recipients of the transaction. Whoever gets the header of a message back, in a delivery
// report or a complaint, knows by it whom the copy was for, long after the message has left
// the spool, and though the report leaves the recipient out.
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

// maxMarks is how many ids of a field are looked at. Ours is the first of its own field; to
// look at each costs hashes, and a field of a stranger may have thousands.
const maxMarks = 3

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
	b.WriteString("\r\n\tid " + qid + "." + id.String() + "." + mac(keys.Loop, id.String(), qid))
	if text := keys.seals[0].sealed(e, id.String(), qid, to); text != "" {
		b.WriteString("\r\n\t(" + text + ")")
	}
	if len(e.Recipients) == 1 && address.Plain(e.Recipients[0].Address) {
		b.WriteString("\r\n\tfor <" + e.Recipients[0].Address + ">")
	}
	b.WriteString(";\r\n\t" + e.Arrived.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700 (MST)") + "\r\n")
	return []byte(b.String())
}

// Marked reports whether a Received field's value carries our mark. Folding may
// be CRLF or LF, and other hops may have refolded the field.
func Marked(received string, key []byte) bool {
	for x := range ids(received) {
		if x.holds(key) {
			return true
		}
	}
	return false
}

// written is what a field has after "id" in the form of our mark.
type written struct{ qid, id, sum, sealed string }

// holds reports whether the hash is that of the two ids.
func (x *written) holds(key []byte) bool {
	return hmac.Equal([]byte(mac(key, x.id, x.qid)), []byte(x.sum))
}

// ids are the marks of a field, held or not, maxMarks of them at most.
func ids(received string) iter.Seq[written] {
	return func(yield func(written) bool) {
		words := strings.FieldsFunc(received, func(r rune) bool {
			return r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == ';'
		})
		left := maxMarks
		for i, w := range words {
			if i == 0 || !strings.EqualFold(words[i-1], "id") {
				continue
			}
			var x written
			var ok1, ok2 bool
			x.qid, w, ok1 = strings.Cut(w, ".")
			x.id, x.sum, ok2 = strings.Cut(w, ".")
			if i+1 < len(words) && words[i+1][0] == '(' {
				x.sealed = strings.Trim(words[i+1], "()")
			}
			if !ok1 || !ok2 {
				continue
			}
			if left--; !yield(x) || left == 0 {
				return
			}
		}
	}
}

// mac is the keyed hash over the two ids as they are written in the field.
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
