package inlet_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/agent/config"
)

// Whatever shape a header and a body have that may be spooled, the signature holds.
func TestSignatureHoldsForAnyShape(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(c *config.Config) {
		c.DKIM = []config.DKIM{{Domain: "b.test", Selector: "s1", Signer: private}}
	})
	c := s.dial()
	c.hello()
	const rest = "Subject: x\r\n\r\nbody\r\n"
	shapes := map[string]string{
		"duplicates":    "To: one@d.test\r\nFrom: a@b.test\r\nTo: two@d.test\r\nSubject: y\r\n" + rest,
		"folded":        "From: \"A\r\n\tB\"\r\n <a@b.test>\r\nTo:\r\n c@d.test,\r\n\t\r\n e@f.test\r\n" + rest,
		"capitals":      "FROM: A@NEWS.B.TEST\r\nSUBJECT: x\r\n\r\nbody\r\n",
		"subdomain":     "From: a@x.y.b.test\r\n" + rest,
		"empty fields":  "From: a@b.test\r\nReply-To:\r\nCc: \r\n" + rest,
		"long line":     "From: a@b.test\r\nReferences: " + strings.Repeat("<x@y.test> ", 85) + "\r\n" + rest,
		"blanks":        "From: a@b.test\r\nSubject:   a\t b  \r\n\r\nline \t\r\n\r\n\r\n \r\n\r\n",
		"no body":       "From: a@b.test\r\nSubject: x\r\n\r\n",
		"header alone":  "From: a@b.test\r\nSubject: x\r\n",
		"blank lines":   "From: a@b.test\r\nSubject: x\r\n\r\n\r\n\r\n\r\n",
		"bcc":           "From: a@b.test\r\nBcc: secret@d.test,\r\n other@d.test\r\n" + rest,
		"large":         "From: a@b.test\r\n" + rest + strings.Repeat("0123456789 abcdef\r\n", 20000),
		"utf-8":         "From: \xc3\xa4 <a@b.test>\r\nSubject: \xc3\xa4\r\n\r\n\xc3\xa4\r\n",
		"encoded word":  "From: =?utf-8?Q?=C3=A4?= <a@b.test>\r\n" + rest,
		"other charset": "From: =?ISO-2022-JP?B?GyRCRnxLXBsoQg==?= <a@b.test>\r\n" + rest,
		"koi8":          "From: =?koi8-r?B?8NLJ18XU?= <a@b.test>\r\n" + rest,
		"comment":       "From: a@b.test (A (nested) B)\r\n" + rest,
		"former":        "DKIM-Signature: v=1; d=other.test; s=x;\r\n b=abc\r\nFrom: a@b.test\r\n" + rest,
		"folded tag":    "DKIM-Signature: v=1; b=d=b.test; h=x;\r\n d =\r\n\tother.test\r\nFrom: a@b.test\r\n" + rest,
		"no quotes":     "From: A. B <a@b.test>\r\n" + rest,
		"at in name":    "From: news@b.test <a@b.test>\r\n" + rest,
		"8 bit name":    "From: \xe4 <a@b.test>\r\n" + rest,
		"dot at end":    "From: \"x.\" <a.@b.test>\r\n" + rest,
		"quoted":        "From: \"a, b\" <\"a b\"@b.test>\r\n" + rest,
	}
	for name, content := range shapes {
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed("X-Shape: "+name+"\r\n"+content))
		c.wants("250", "250", "354")
		_, said, err := c.ReadResponse(250)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(said, "queued as") {
			t.Errorf("%s: passed to the MTA", name)
		}
	}
	for _, from := range []string{"", "a", "a@b", "a@b.test, c@b.test", "x@b.test, <a@b.test>", "<a@b.test> x", "g: a@b.test;", "\"<a@b.test>", "(a@b.test", "<x@b.test> <a@b.test>", "a@b.test\r\nFrom: a@b.test"} {
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed("From: "+from+"\r\n"+rest))
		c.wants("250", "250", "354", "250 2.1.0 Ok")
	}
	for _, m := range s.spooled() {
		_, signed, _ := strings.Cut(m, "\n")
		_, name, _ := strings.Cut(signed, "X-Shape: ")
		name, _, _ = strings.Cut(name, "\r\n")
		found, err := dkim.VerifyWithOptions(strings.NewReader("Received: by x\r\n"+signed), &dkim.VerifyOptions{LookupTXT: func(d string) ([]string, error) {
			return []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}, nil
		}})
		ok := false
		for _, f := range found {
			ok = ok || f.Err == nil && f.Domain == "b.test"
		}
		if err != nil || !ok {
			t.Errorf("%s: %v, %+v", name, err, found)
		}
	}
}
