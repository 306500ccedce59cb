package sink

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

func TestIdealServerTakesMail(t *testing.T) {
	t.Parallel()
	var kept []Message
	n := startWith(t, Options{Message: func(m *Message) {
		m.Content = bytes.Clone(m.Content)
		kept = append(kept, *m)
	}}, Behaviour{})
	c := dialOnly(t, n, "mx1")
	c.wants("220 mx1")
	got := strings.Split(c.says("EHLO client.test", "250"), "\n")
	for i, want := range []string{"250-mx1", "250-PIPELINING", "250-8BITMIME", "250-SMTPUTF8", "250-DSN", "250-ENHANCEDSTATUSCODES", "250-SIZE 0", "250 HELP"} {
		if got[i] != want {
			t.Errorf("EHLO line %d: %q", i, got[i])
		}
	}
	c.send("mail from:<S@x.test> body=8BITMIME RET=HDRS\r\nRcpt To:<\"a>b\"@X.test> NOTIFY=NEVER\r\nRCPT TO:<c@y.test>\r\nDATA\r\n")
	c.wants("250", "250", "250", "354")
	content := "X-Lab-ID: 7\r\nSubject: x\r\n\r\n..dot\r\n"
	c.send("Received: here\r\n" + strings.Replace(content, "..", "...", 1) + ".\r\nQUIT\r\n")
	c.wants("250", "221", "")
	n.Close() // the session is over, so what it wrote may be read

	records := slices.Collect(n.Ledger().Records())
	if len(records) != 2 {
		t.Fatalf("records %+v", records)
	}
	r := records[0]
	var d ledger.Digest
	d.Write([]byte(content))
	_, want := d.Sum()
	if r.ID != "7" || r.Recipient != `"a>b"@X.test` || r.Sender != "S@x.test" || r.Hash != want || r.Provider != "p" || r.Host != "mx1" || r.Size != int64(len(content))+16 || r.Above != 16 {
		t.Errorf("record %+v", r)
	}
	if records[1].Recipient != "c@y.test" {
		t.Errorf("record %+v", records[1])
	}
	if len(kept) != 1 {
		t.Fatalf("%d messages kept", len(kept))
	}
	m := kept[0]
	if string(m.Content) != "Received: here\r\n"+content || m.Helo != "client.test" || m.MailArgs != "body=8BITMIME RET=HDRS" ||
		m.Recipients[0] != (Recipient{`"a>b"@X.test`, "NOTIFY=NEVER"}) || m.TLS {
		t.Errorf("kept %+v", m)
	}
	st := hostStats(t, n, "mx1")
	var series uint32
	for _, k := range st.PerSecond {
		series += k
	}
	if st.Messages != 1 || st.Recipients != 2 || st.Bytes != r.Size || series != 1 || st.Replies != [6]int64{2: 7, 3: 1} {
		t.Errorf("statistics %+v", st)
	}
}

func TestCommandsOutOfOrder(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{})
	c := dialOnly(t, n, "mx1")
	c.wants("220")
	c.says("MAIL FROM:<a@x>", "503")
	c.says("HELO x", "250 mx1")
	c.says("RCPT TO:<a@x>", "503")
	c.says("DATA", "503")
	c.says("MAIL FROM:a@x", "250") // lenient, as most are
	c.says("MAIL FROM:<a@x>", "503")
	c.says("RCPT TO:<>", "501")
	c.says("RCPT FROM:<a@x>", "501")
	c.says("DATA", "554")
	c.says("RSET", "250")
	c.says("RCPT TO:<a@x>", "503")
	c.says("MAIL FROM:<", "501")
	c.says("MAIL FROM:<> AUTH=<>", "555")
	c.says("MAIL FROM:<>", "250")
	c.says("VRFY x", "252")
	c.says("NOOP", "250")
	c.says("STARTTLS", "502")
	c.says("WHAT", "500")
	c.send(strings.Repeat("x", maxCommand+100))
	c.wants("500 5.5.2 Line too long", "")
}

func TestContentByChunks(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Chunking: true, MaxLine: 20})
	c := dialOnly(t, n, "mx1")
	c.wants("220")
	if got := c.says("EHLO x", "250"); !strings.Contains(got, "250-CHUNKING\n") {
		t.Errorf("offers %q", got)
	}
	chunk := func(data, last, reply string) {
		t.Helper()
		c.send(fmt.Sprintf("BDAT %d%s\r\n%s", len(data), last, data))
		c.wants(reply)
	}
	begin := func() {
		c.says("MAIL FROM:<a@x>", "250")
		c.says("RCPT TO:<b@x>", "250")
	}
	chunk("NOOP\r\n", "", "503") // the chunk is no command even so
	begin()
	chunk(".\r\n.\r", "", "250") // not stuffed, no end
	c.says("DATA", "503")
	chunk("\n", " last", "250 2.0.0 Ok: queued")
	for data, reply := range map[string]string{
		"a\r\n": "250", "": "250", "a": "250", "a\n": "554 5.6.0 Bare", "\ra\r\n": "554 5.6.0 Bare", "a\r": "554 5.6.0 Bare",
		strings.Repeat("x", 18) + "\r\n": "250", strings.Repeat("x", 19) + "\r\n": "554 5.6.0 Line",
	} {
		begin()
		chunk(data, " LAST", reply)
	}
	c.says("BDAT x", "501")
	c.wants("")

	plain := dial(t, start(t, Behaviour{}), "mx1")
	plain.send("BDAT 2\r\n\r\n")
	plain.wants("502")
}

func TestForeignDomainIsRefused(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{})
	if err := n.Add(Provider{Name: "q", Domains: []string{"Only.test", "d*.example"}, Host: []Host{{Name: "q1"}}}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, n, "q1")
	c.says("MAIL FROM:<a@x>", "250")
	c.says("RCPT TO:<a@other.test>", "554 5.7.1")
	c.says("RCPT TO:<a@ONLY.test>", "250")
	c.says("RCPT TO:<a@d77.example>", "250")
	c.says("RCPT TO:<a@e77.example>", "554")
	if st := hostStats(t, n, "q1"); st.Refused[CauseRelay] != 2 {
		t.Errorf("%+v", st)
	}
}

func TestSecondDomainIsRefused(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{OneDomain: true})
	c := dial(t, n, "mx1")
	c.says("MAIL FROM:<a@x>", "250")
	c.says("RCPT TO:<a@x.test>", "250")
	c.says("RCPT TO:<b@X.test>", "250")
	if got := c.says("RCPT TO:<b@y.test>", "451-4.3.0 Multiple destination domains"); !strings.Contains(got, "\n451 4.3.0 ") {
		t.Errorf("got %q", got)
	}
	c.says("DATA", "354")
	c.send("X-Lab-ID: 1\r\n\r\n.\r\n")
	c.wants("250")
	if n.Ledger().Len() != 2 {
		t.Errorf("%d records", n.Ledger().Len())
	}
}

func TestSharesByRecipientAreSeeded(t *testing.T) {
	t.Parallel()
	const total = 1000
	ask := func(seed uint64, tries int) (codes []string) {
		n := startWith(t, Options{Seed: seed}, Behaviour{PermShare: 0.1, TempShare: 0.2, TempTimes: 2})
		c := dial(t, n, "mx1")
		for range tries {
			codes = codes[:0]
			c.says("RSET", "250")
			c.says("MAIL FROM:<a@x>", "250")
			for i := range total {
				c.send(fmt.Sprintf("RCPT TO:<user%d@x.test>\r\n", i))
				codes = append(codes, c.read()[:3])
			}
		}
		return codes
	}
	count := func(codes []string, code string) (k int) {
		for _, c := range codes {
			if c == code {
				k++
			}
		}
		return k
	}
	first := ask(1, 1)
	if perm, temp := count(first, "550"), count(first, "450"); perm < 70 || perm > 130 || temp < 160 || temp > 240 {
		t.Errorf("%d refused, %d deferred", perm, temp)
	}
	if !slices.Equal(first, ask(1, 2)) {
		t.Error("another choice at the second try")
	}
	third := ask(1, 3)
	if count(third, "450") != 0 || count(third, "550") != count(first, "550") {
		t.Error("deferred more than twice")
	}
	if slices.Equal(first, ask(2, 1)) {
		t.Error("the same choice for another seed")
	}
}

func TestRefusedRecipientsAreInTheLedger(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{PermShare: 1})
	c := dial(t, n, "mx1")
	c.says("MAIL FROM:<a@x>", "250")
	c.says("RCPT TO:<no@x.test>", "550 5.1.1")
	var sent ledger.Ledger
	sent.Add(&ledger.Message{ID: []byte("1"), Recipients: [][]byte{[]byte("no@x.test")}})
	if r := ledger.Compare(&sent, n.Ledger()); !r.Clean() || len(r.Refused) != 1 {
		t.Errorf("%s", r)
	}
}

func TestGreylistRemembersSenderAndRecipient(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Greylist: time.Hour})
	c := dial(t, n, "mx1")
	c.says("MAIL FROM:<a@x>", "250")
	c.says("RCPT TO:<u@x.test>", "451 4.7.1 Greylisted")
	c.says("RCPT TO:<u@x.test>", "451")
	if err := n.Change("p", func(b *Behaviour) { b.Greylist = time.Nanosecond }); err != nil {
		t.Fatal(err)
	}
	c.says("RCPT TO:<u@x.test>", "250") // known since before
	c.says("RCPT TO:<v@x.test>", "451")
	c.says("RSET", "250")
	c.says("MAIL FROM:<b@x>", "250")
	c.says("RCPT TO:<u@x.test>", "451") // another pair
}

func TestBareLineEndsAndLongLinesAreRejected(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{MaxLine: 1000})
	c := dial(t, n, "mx1")
	for _, bad := range []string{"a\nb\r\n", "a\rb\r\n", "x\n.\r\ny\r\n", strings.Repeat("x", 999) + "\r\n"} {
		c.transaction("u@x.test")
		c.send(bad + ".\r\n")
		c.wants("554 5.6.0")
	}
	c.transaction("u@x.test")
	c.send(strings.Repeat("x", 998) + "\r\n.\r\n")
	c.wants("250")
	if st := hostStats(t, n, "mx1"); st.Refused[CauseContent] != 4 || n.Ledger().Len() != 1 {
		t.Errorf("%+v", st)
	}
}

func TestHiddenExtensions(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Hide: []string{"PIPELINING", "8BITMIME", "SIZE", "DSN", "SMTPUTF8", "ENHANCEDSTATUSCODES"}})
	c := dialOnly(t, n, "mx1")
	c.wants("220")
	if got := c.says("EHLO x", "250"); got != "250-mx1\n250 HELP" {
		t.Errorf("got %q", got)
	}
	for _, arg := range []string{"BODY=8BITMIME", "SIZE=1", "RET=FULL", "SMTPUTF8"} {
		c.says("MAIL FROM:<a@x> "+arg, "555")
	}
	c.says("MAIL FROM:<a@x>", "250")
	c.says("RCPT TO:<a@x> NOTIFY=NEVER", "555")
}

func TestStartTLSWithOwnAuthority(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{StartTLS: true, RequireTLS: true}, "mx1.p.test")
	c := dialOnly(t, n, "mx1.p.test")
	c.wants("220")
	if got := c.says("EHLO x", "250"); !strings.Contains(got, "250-STARTTLS\n") {
		t.Errorf("got %q", got)
	}
	c.says("MAIL FROM:<a@x>", "530 5.7.0")
	c.send("STARTTLS\r\nMAIL FROM:<injected@x>\r\n") // what follows must not be obeyed
	c.wants("220")
	pool, err := n.CAs()
	if err != nil {
		t.Fatal(err)
	}
	tc := tls.Client(c.Conn, &tls.Config{RootCAs: pool, ServerName: "mx1.p.test"})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.Conn = tc
	c.in.Reset(tc)
	c.says("MAIL FROM:<a@x>", "503") // EHLO anew
	if got := c.says("EHLO x", "250"); strings.Contains(got, "STARTTLS") {
		t.Errorf("got %q", got)
	}
	c.mail("1", "u@x.test", "250")
	c.quit()
	if pem, err := n.CAPEM(); err != nil || !bytes.HasPrefix(pem, []byte("-----BEGIN CERTIFICATE")) {
		t.Errorf("PEM %q, %v", pem, err)
	}
}
