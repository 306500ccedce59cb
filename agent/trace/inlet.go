package trace

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/address"
)

// judgedFor is how long the mark of the inlet counts: it goes through the host MTA to the
// milter in the same session. An older one is from somebody's archive.
const judgedFor = 10 * time.Minute

// Hop is what the inlet's Received field says of mail that it passes to the host MTA.
type Hop struct {
	Helo     string
	Client   netip.Addr // zero: a Unix socket
	By       string
	Protocol string // SMTP or ESMTP (RFC 3848)
	ID       string // a word of the log, unique
	At       time.Time
	For      string // the only recipient, "" if there are more
	Judged   bool   // rules and evidence have looked at the message, and counted it
}

// Passed returns the Received field (RFC 5321 section 4.4) of the inlet, folded, each line
// ended by CRLF. Where h.Judged, its id carries a keyed mark that Judged reads; the mark
// proves nothing else, and no loop.
func Passed(h *Hop, key []byte) []byte {
	client := "127.0.0.1"
	if h.Client.IsValid() {
		client = h.Client.Unmap().String()
		if h.Client.Unmap().Is6() {
			client = "IPv6:" + client
		}
	}
	id := queueID(h.ID)
	if h.Judged {
		id = strconv.FormatInt(h.At.Unix(), 36) + "-" + id
		id += ".inlet." + judgedMAC(key, id)
	}
	s := "Received: from " + word(h.Helo, "unknown") + " (localhost [" + word(client, "unknown") + "])\r\n\tby " +
		word(h.By, "localhost") + " (Millrace inlet) with " + word(h.Protocol, "SMTP") + "\r\n\tid " + id
	if address.Plain(h.For) {
		s += "\r\n\tfor <" + h.For + ">"
	}
	return []byte(s + ";\r\n\t" + h.At.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700 (MST)") + "\r\n")
}

// Judged reports whether a Received field's value says that the inlet has judged the
// message shortly before now.
func Judged(received string, key []byte, now time.Time) bool {
	for x := range ids(received) {
		if x.id != "inlet" {
			continue
		}
		at, _, _ := strings.Cut(x.qid, "-")
		seconds, err := strconv.ParseInt(at, 36, 64)
		age := now.Sub(time.Unix(seconds, 0))
		if err == nil && age > -judgedFor && age < judgedFor && hmac.Equal([]byte(judgedMAC(key, x.qid)), []byte(x.sum)) {
			return true
		}
	}
	return false
}

// judgedMAC is another hash than that of the loop mark, under the same key.
func judgedMAC(key []byte, id string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("judged by the inlet\x00" + id))
	return hex.EncodeToString(h.Sum(nil)[:macLen])
}
