package smtp

import (
	"testing"

	"github.com/millrace/millrace/agent/address"
)

// FuzzPlainAddressesAreSaid ties what the milter diverts to what is sent: it diverts
// plain addresses only (milter/classify FuzzDecide), and those go to every peer, each
// in one command that has nothing else in it.
func FuzzPlainAddressesAreSaid(f *testing.F) {
	for _, s := range []string{"a@b.example", "<a@b.example>", "a..b@c.example", "jörg@b.example", "a@b.example> NOTIFY=NEVER", "a@b\r\nDATA"} {
		f.Add(s)
	}
	bare := &Conn{} // no extension at all
	f.Fuzz(func(t *testing.T, a string) {
		tx := &Tx{Sender: a, Recipients: []Rcpt{{Address: a}}}
		out := make([]RcptResult, 1)
		if n := bare.fit(tx, out); n == 1 != address.Plain(a) && !(address.International(a) && isASCII(aLabels(a))) {
			t.Fatalf("%q: plain %v, said %v (%v)", a, address.Plain(a), n == 1, out[0].Err)
		}
		if !address.Plain(a) {
			return
		}
		if got := string(bare.appendMail(nil, tx)); got != "MAIL FROM:<"+a+">\r\n" {
			t.Fatalf("%q", got)
		}
		if got := string(bare.appendRcpt(nil, tx, &tx.Recipients[0])); got != "RCPT TO:<"+a+">\r\n" {
			t.Fatalf("%q", got)
		}
	})
}
