package dsn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/textproto"

	"github.com/millrace/millrace/agent/spool"
)

// parsed is a notification as an independent parser sees it.
type parsed struct {
	header  message.Header
	parts   []part
	message map[string]string   // per-message fields of the status
	rcpts   []map[string]string // per-recipient fields
}

type part struct {
	header message.Header
	body   string
}

func parse(t *testing.T, content []byte) parsed {
	t.Helper()
	e, err := message.Read(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	p := parsed{header: e.Header}
	mr := e.MultipartReader()
	if mr == nil {
		t.Fatalf("not multipart\n%s", content)
	}
	for {
		sub, err := mr.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, content)
		}
		body, err := io.ReadAll(sub.Body)
		if err != nil {
			t.Fatalf("%v\n%s", err, content)
		}
		p.parts = append(p.parts, part{sub.Header, string(body)})
	}
	if len(p.parts) != 3 {
		t.Fatalf("%d parts\n%s", len(p.parts), content)
	}
	r := bufio.NewReader(strings.NewReader(p.parts[1].body))
	for {
		if _, err := r.Peek(1); err != nil {
			break
		}
		h, err := textproto.ReadHeader(r)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("%v\n%s", err, content)
		}
		fields := make(map[string]string)
		for f := h.Fields(); f.Next(); {
			k := strings.ToLower(f.Key())
			if _, twice := fields[k]; twice {
				t.Fatalf("field %s twice\n%s", k, content)
			}
			fields[k] = f.Value()
		}
		if p.message == nil {
			p.message = fields
		} else {
			p.rcpts = append(p.rcpts, fields)
		}
	}
	return p
}

// checkForm fails unless content could be sent as it is.
func checkForm(t *testing.T, content []byte) {
	t.Helper()
	if !clean(content) || !bytes.HasSuffix(content, []byte("\r\n")) {
		t.Errorf("bad line ends, NUL or long lines:\n%q", content)
	}
	for line := range bytes.SplitSeq(content, []byte("\r\n")) {
		if len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00") {
			t.Errorf("line %q", line)
		}
	}
}

func keys(h message.Header) string {
	var k []string
	for f := h.Fields(); f.Next(); {
		k = append(k, f.Key())
	}
	return strings.Join(k, " ")
}

var berlin = time.FixedZone("", 3600)

func report() Report {
	return Report{
		Hostname: "mail.example.com",
		ID:       spool.MakeID(0x1a, 0x3f0040),
		Original: &spool.Envelope{
			Sender:  "list-bounces+joe=example.net@news.example.com",
			Args:    []string{"SIZE=1000", "ENVID=campaign+2B7", "RET=HDRS"},
			Arrived: time.Date(2026, 1, 2, 15, 4, 5, 0, berlin),
		},
		Recipients: []Recipient{
			{
				Recipient: spool.Recipient{Address: "joe@example.net", Args: []string{"ORCPT=rfc822;Joe+2Bnews@example.net"}},
				Action:    Failed, Status: "5.1.1", Diagnostic: "550 5.1.1 No such user", RemoteHost: "mx1.example.net", Class: "userunknown",
				LastAttempt: time.Date(2026, 1, 2, 15, 5, 0, 0, berlin),
			},
			{
				Recipient: spool.Recipient{Address: "ann@gone.example"},
				Action:    Failed, Status: "5.1.2", Diagnostic: "domain gone.example does not exist",
			},
		},
		Content: []byte("From: <news@example.com>\r\nSubject: one\r\n two\r\nList-Id: <l.example.com>\r\n\r\nbody\r\n"),
		Now:     time.Date(2026, 1, 2, 15, 6, 0, 0, berlin),
	}
}

func TestFailureReport(t *testing.T) {
	t.Parallel()
	e, content, err := Compose(report())
	if err != nil {
		t.Fatal(err)
	}
	checkForm(t, content)

	if e.Origin != spool.Report || e.Sender != "" || len(e.Recipients) != 1 || e.Recipients[0].Address != "list-bounces+joe=example.net@news.example.com" ||
		len(e.Args) != 0 || !e.Arrived.Equal(report().Now) {
		t.Errorf("envelope %+v", e)
	}

	p := parse(t, content)
	if got, want := keys(p.header), "Date From Subject To Message-Id Auto-Submitted Mime-Version Content-Type"; got != want {
		t.Errorf("header fields %q, want %q", got, want)
	}
	kind, params, err := p.header.ContentType()
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Errorf("content type %s %v %v", kind, params, err)
	}
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	from, err := m.Header.AddressList("From")
	if err != nil || len(from) != 1 || *from[0] != (mail.Address{Name: "Mail Delivery System", Address: "MAILER-DAEMON@mail.example.com"}) {
		t.Errorf("from %v %v", from, err)
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 1 || to[0].Address != report().Original.Sender {
		t.Errorf("to %v %v", to, err)
	}
	if date, err := m.Header.Date(); err != nil || !date.Equal(report().Now) {
		t.Errorf("date %v %v", date, err)
	}
	for k, want := range map[string]string{"Subject": "Undelivered Mail Returned to Sender", "Auto-Submitted": "auto-replied"} {
		if got := m.Header.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}

	wantFields(t, p.message, map[string]string{
		"reporting-mta":        "dns; mail.example.com",
		"x-millrace-queue-id":  "M1A-3F0040",
		"x-millrace-sender":    "rfc822; list-bounces+joe=example.net@news.example.com",
		"original-envelope-id": "campaign+7",
		"arrival-date":         "Fri, 02 Jan 2026 15:04:05 +0100",
	})
	if len(p.rcpts) != 2 {
		t.Fatalf("%d recipients", len(p.rcpts))
	}
	wantFields(t, p.rcpts[0], map[string]string{
		"original-recipient": "rfc822;Joe+news@example.net",
		"final-recipient":    "rfc822; joe@example.net",
		"action":             "failed",
		"status":             "5.1.1",
		"remote-mta":         "dns; mx1.example.net",
		"diagnostic-code":    "smtp; 550 5.1.1 No such user",

		"x-millrace-bounce-class": "userunknown",
		"last-attempt-date":       "Fri, 02 Jan 2026 15:05:00 +0100",
	})
	wantFields(t, p.rcpts[1], map[string]string{
		"final-recipient": "rfc822; ann@gone.example",
		"action":          "failed",
		"status":          "5.1.2",
		"diagnostic-code": "X-Millrace; domain gone.example does not exist",
	})

	human := unwrap(p.parts[0].body)
	for _, want := range []string{
		"This is the mail system at host mail.example.com (Millrace).",
		"<joe@example.net>: host mx1.example.net said: 550 5.1.1 No such user",
		"<ann@gone.example>: domain gone.example does not exist",
		"postmaster",
	} {
		if !strings.Contains(human, want) {
			t.Errorf("not said: %q in\n%s", want, human)
		}
	}
	if kind, _, _ := p.parts[2].header.ContentType(); kind != "text/rfc822-headers" {
		t.Errorf("third part is %s", kind)
	}
	if got, want := p.parts[2].body, "From: <news@example.com>\r\nSubject: one\r\n two\r\nList-Id: <l.example.com>\r\n"; got != want {
		t.Errorf("returned %q, want %q", got, want)
	}
}

func unwrap(s string) string { return strings.Join(strings.Fields(s), " ") }

func wantFields(t *testing.T, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %q, want %q", k, got[k], v)
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("field %s: %q is not wanted", k, v)
		}
	}
}

func TestSubjectFollowsTheWorstFate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		actions []Action
		subject string
		status  string // of the last one, from a bad status
	}{
		{[]Action{Delivered, Delayed, Failed}, "Undelivered Mail Returned to Sender", "5.0.0"},
		{[]Action{Delivered, Delayed}, "Delayed Mail (still being retried)", "4.0.0"},
		{[]Action{Expanded, Relayed}, "Successful Mail Delivery Report", "2.0.0"},
	}
	for _, tt := range tests {
		r := report()
		r.Full = true
		r.Recipients = nil
		for _, a := range tt.actions {
			r.Recipients = append(r.Recipients, Recipient{
				Recipient: spool.Recipient{Address: "x@example.net"}, Action: a, Status: "5.1.1\r\nX: y", RemoteHost: "mx.example.net",
				WillRetryUntil: time.Date(2026, 1, 7, 15, 4, 5, 0, berlin),
			})
		}
		_, content, err := Compose(r)
		if err != nil {
			t.Fatal(err)
		}
		p := parse(t, content)
		if got := p.header.Get("Subject"); got != tt.subject {
			t.Errorf("%v: subject %q", tt.actions, got)
		}
		for i, a := range tt.actions {
			if got := p.rcpts[i]["action"]; got != string(a) {
				t.Errorf("action %q, want %q", got, a)
			}
			if until, has := p.rcpts[i]["will-retry-until"]; has != (a == Delayed) || has && until != "Wed, 07 Jan 2026 15:04:05 +0100" {
				t.Errorf("%s: Will-Retry-Until %q", a, until)
			}
		}
		if got := p.rcpts[len(p.rcpts)-1]["status"]; got != tt.status {
			t.Errorf("status %q, want %q", got, tt.status)
		}
		// Only a failure returns the body.
		kind, _, _ := p.parts[2].header.ContentType()
		if want := map[bool]string{true: "message/rfc822", false: "text/rfc822-headers"}[slices.Contains(tt.actions, Failed)]; kind != want {
			t.Errorf("%v: third part is %s", tt.actions, kind)
		}
	}
}

func TestFullContentComesBackUnchanged(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"plain":         "Subject: x\r\n\r\nbody\r\n",
		"no final line": "Subject: x\r\n\r\nbody",
		"8 bit":         "Subject: gr\xfc\xdfe\r\n\r\nk\xc3\xa4se \xff\r\n.\r\n..\r\n",
		"no header":     "\r\nbody\r\n",
		"990 octets":    "Subject: x\r\n\r\n" + strings.Repeat("y", 990) + "\r\n",
		"multipart":     "Content-Type: multipart/mixed; boundary=\"=_M1A-3F0040.1767362760.0\"\r\n\r\n--=_M1A-3F0040.1767362760.0\r\n\r\nx\r\n--=_M1A-3F0040.1767362760.0--\r\n",
	} {
		r := report()
		r.Full, r.Content = true, []byte(content)
		e, out, err := Compose(r)
		if err != nil {
			t.Fatal(err)
		}
		checkForm(t, out)
		p := parse(t, out)
		if got := p.parts[2].body; got != content {
			t.Errorf("%s: returned %q, want %q", name, got, content)
		}
		if kind, _, _ := p.parts[2].header.ContentType(); kind != "message/rfc822" {
			t.Errorf("%s: third part is %s", name, kind)
		}
		eightBit := name == "8 bit"
		for what, h := range map[string]message.Header{"message": p.header, "part": p.parts[2].header} {
			if got := h.Get("Content-Transfer-Encoding") == "8bit"; got != eightBit {
				t.Errorf("%s: encoding of the %s %q", name, what, h.Get("Content-Transfer-Encoding"))
			}
		}
		if got := slices.Contains(e.Args, "BODY=8BITMIME"); got != eightBit {
			t.Errorf("%s: arguments %q", name, e.Args)
		}
	}
}

func TestLargeOriginalIsReducedToItsHeader(t *testing.T) {
	t.Parallel()
	r := report()
	r.Full = true
	r.Content = []byte("Subject: x\r\n\r\n" + strings.Repeat("line\r\n", MaxContent))
	_, out, err := Compose(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := parse(t, out).parts[2].body; got != "Subject: x\r\n" {
		t.Errorf("returned %q", cut(got, 100))
	}

	r.Content = []byte(strings.Repeat("X-Field: value\r\n", MaxContent))
	_, out, err = Compose(r)
	if err != nil {
		t.Fatal(err)
	}
	got := parse(t, out).parts[2].body
	if n := len(got); n > MaxContent || n < MaxContent-20 || !strings.HasSuffix(got, "X-Field: value\r\n") {
		t.Errorf("returned %d octets, ending %q", n, got[max(0, n-30):])
	}
}

func TestBoundaryOccursNowhereElse(t *testing.T) {
	t.Parallel()
	r := report()
	r.Full = true
	for n := range 3 { // the sender guesses right, again and again
		_, out, err := Compose(r)
		if err != nil {
			t.Fatal(err)
		}
		_, params, err := mime.ParseMediaType(mustHeader(t, out).Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		// Once in the header, three times before a part, once at the end.
		if got := bytes.Count(out, []byte(params["boundary"])); got != 5 {
			t.Errorf("round %d: the boundary occurs %d times", n, got)
		}
		r.Content = append(r.Content, "--"+params["boundary"]+"--\r\n"...)
		r.Recipients[0].Diagnostic += " --" + params["boundary"]
	}
}

func mustHeader(t *testing.T, content []byte) mail.Header {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return m.Header
}

func TestAddressesOutsideASCII(t *testing.T) {
	t.Parallel()
	r := report()
	r.Original.Sender = "jürgen@bücher.example"
	r.Recipients = []Recipient{{
		Recipient: spool.Recipient{Address: "用户@例.example"}, Action: Failed, Status: "5.1.1", Diagnostic: "550 kein Empfänger", RemoteHost: "mx.example",
	}}
	e, out, err := Compose(r)
	if err != nil {
		t.Fatal(err)
	}
	checkForm(t, out)
	if !slices.Equal(e.Args, []string{"BODY=8BITMIME", "SMTPUTF8"}) {
		t.Errorf("arguments %q", e.Args)
	}
	p := parse(t, out)
	if got := p.rcpts[0]["final-recipient"]; got != `utf-8; \x{7528}\x{6237}@\x{4F8B}.example` {
		t.Errorf("final recipient %q", got)
	}
	if got := p.rcpts[0]["diagnostic-code"]; got != "smtp; 550 kein Empf?nger" {
		t.Errorf("diagnostic %q", got)
	}
	if !strings.Contains(unwrap(p.parts[0].body), "<用户@例.example>: host mx.example said: 550 kein Empfänger") {
		t.Errorf("text for people:\n%s", p.parts[0].body)
	}
	if !ascii(p.parts[1].body) {
		t.Error("the delivery status is not ASCII")
	}
}

// RFC 6533: a sender that declared SMTPUTF8 reads addresses, replies and header as
// they are. One whose message needs nothing of that gets the old forms.
func TestGlobalReport(t *testing.T) {
	t.Parallel()
	r := report()
	r.Original.Args = []string{"smtputf8", "ENVID=x"}
	if _, out, err := Compose(r); err != nil || bytes.Contains(out, []byte("global")) {
		t.Errorf("all is ASCII, %v:\n%s", err, out)
	}
	r.Recipients[0] = Recipient{
		Recipient: spool.Recipient{Address: "用户@例.example", Args: []string{`ORCPT=utf-8;\x{7528}\x{6237}@x.example`}},
		Action:    Failed, Status: "5.1.1", Diagnostic: "550 kein Empfänger", RemoteHost: "mx.example", Class: "userunknown",
	}
	for header, third := range map[string]string{
		"Subject: grüße\r\n\r\n": "message/global", "Subject: plain\r\n\r\n": "message/rfc822", "Subject: gr\xfc\xdfe\r\n\r\n": "message/rfc822",
	} {
		for _, r.Full = range []bool{true, false} {
			r.Content = []byte(header)
			e, out, err := Compose(r)
			if err != nil {
				t.Fatal(err)
			}
			checkForm(t, out)
			if !slices.Equal(e.Args, []string{"BODY=8BITMIME", "SMTPUTF8"}) {
				t.Errorf("arguments %q", e.Args)
			}
			p := parse(t, out)
			wantFields(t, p.rcpts[0], map[string]string{
				"original-recipient": "utf-8;用户@x.example", "final-recipient": "utf-8; 用户@例.example", "action": "failed", "status": "5.1.1",
				"remote-mta": "dns; mx.example", "diagnostic-code": "smtp; 550 kein Empfänger", "x-millrace-bounce-class": "userunknown",
			})
			if got := p.rcpts[1]["final-recipient"]; got != "rfc822; ann@gone.example" {
				t.Errorf("a plain recipient: %q", got)
			}
			want := third
			if !r.Full {
				want = map[string]string{"message/global": "message/global-headers", "message/rfc822": "text/rfc822-headers"}[third]
			}
			for i, want := range []string{"text/plain", "message/global-delivery-status", want} {
				if got, _, _ := p.parts[i].header.ContentType(); got != want {
					t.Errorf("%q: part %d is %s, want %s", header, i, got, want)
				}
			}
			if got := p.parts[1].header.Get("Content-Transfer-Encoding"); got != "8bit" {
				t.Errorf("the status has encoding %q", got)
			}
		}
	}
}

func TestEachReportOfAMessageHasItsOwnMessageID(t *testing.T) {
	t.Parallel()
	ids := make(map[string]bool)
	for i := range 3 {
		r := report()
		if i < 2 {
			r.Recipients = r.Recipients[i : i+1]
		}
		_, first, err := Compose(r)
		if err != nil {
			t.Fatal(err)
		}
		_, again, err := Compose(r)
		if err != nil || !bytes.Equal(first, again) {
			t.Errorf("the same report differs (%v)", err)
		}
		ids[mustHeader(t, first).Get("Message-ID")] = true
	}
	if len(ids) != 3 {
		t.Errorf("message ids %v", ids)
	}
}

func TestComposeRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Report){
		"null sender":   func(r *Report) { r.Original.Sender = "" },
		"report":        func(r *Report) { r.Original.Origin = spool.Report },
		"line break":    func(r *Report) { r.Original.Sender = "a@example.com>\r\nBcc: <b@example.com" },
		"no recipients": func(r *Report) { r.Recipients = nil },
	} {
		r := report()
		change(&r)
		if e, _, err := Compose(r); err == nil {
			t.Errorf("%s: composed %+v", name, e)
		}
	}
}

func TestDamagedContentIsMended(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"A: b\nC: d\r\n":                             "A: b\r\nC: d\r\n",
		"A: b\rC: \x00d\r\n":                         "A: b\r\nC: ?d\r\n",
		"A: " + strings.Repeat("x", 1000) + "\r\n":   "A: " + strings.Repeat("x", 994) + "\r\n " + strings.Repeat("x", 6) + "\r\n",
		" \xc3" + strings.Repeat("\x80", 998) + "\n": " \xc3" + strings.Repeat("\x80", 995) + "\r\n " + strings.Repeat("\x80", 3) + "\r\n",
		strings.Repeat("\x80", 1000) + "\r\n":        strings.Repeat("\x80", 997) + "\r\n " + strings.Repeat("\x80", 3) + "\r\n",
	} {
		if got := tidy([]byte(in)); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// FuzzCompose: whatever strangers say, the notification parses, has the header
// and the parts it means to have, and could be sent.
func FuzzCompose(f *testing.F) {
	f.Add("a@example.com", "ENVID=x", "b@example.com", "ORCPT=rfc822;b@example.com", "5.1.1", "550 5.1.1 no", "mx.example.com", []byte("A: b\r\n\r\nc\r\n"), true)
	f.Add("a b\"@x", "ENVID=+0D+0AX-Evil:+20y", "b@x\r\nAction: delivered", "ORCPT=x;+0D+0A+0D+0AFinal-Recipient: x", "5.1.1\r\n", "550 x\r\n\r\n--=_M1A-3F0040.1767362760.0--\r\n", "mx\r\nBcc: y", []byte("--=_M1A-3F0040.1767362760.0\r\nA: b"), false)
	f.Add("ü@ü", "ENVID=", "", "ORCPT=utf-8;ü", "", strings.Repeat("x", 3000), strings.Repeat("é", 700), []byte("\xff\x00\n\r\r\n"+strings.Repeat("y", 2000)), true)
	f.Add("ü@ü", "SMTPUTF8", "é@\xff", `ORCPT=utf-8;\x{FC}\x{D800}\x{A}`, "5.1.1", "550 kein Empfänger \xfc\x85", "mx", []byte("Subject: ü\r\n\r\n\xff"), true)
	f.Add("a@b> (x", "", strings.Repeat("\u202e", 400), "ORCPT=;", "9.9.9", strings.Repeat(" \t", 900)+"x", "", []byte(nil), true)
	f.Fuzz(func(t *testing.T, sender, mailArg, rcpt, rcptArg, status, diagnostic, host string, original []byte, full bool) {
		r := report()
		r.Original.Sender, r.Original.Args = sender, []string{mailArg}
		r.Content, r.Full = original, full
		hostile := Recipient{Recipient: spool.Recipient{Address: rcpt, Args: []string{rcptArg}}, Action: Failed, Status: status, Diagnostic: diagnostic, RemoteHost: host}
		r.Recipients = []Recipient{hostile, hostile}
		e, out, err := Compose(r)
		if err != nil {
			if sender != "" && !errors.Is(err, errBadSender) {
				t.Fatal(err)
			}
			return
		}
		checkForm(t, out)
		p := parse(t, out)
		want := "Date From Subject To Message-Id Auto-Submitted Mime-Version Content-Type"
		if got := keys(p.header); got != want && got != want+" Content-Transfer-Encoding" {
			t.Errorf("header fields %q", got)
		}
		if _, err := mustHeader(t, out).AddressList("To"); err != nil {
			t.Errorf("To: %v", err)
		}
		if !ascii(out) && !slices.Contains(e.Args, "BODY=8BITMIME") {
			t.Errorf("arguments %q", e.Args)
		}
		if len(p.rcpts) != 2 || len(p.rcpts[0]) > 6 || p.rcpts[0]["action"] != "failed" ||
			!ascii(p.parts[1].body) && !strings.EqualFold(mailArg, "SMTPUTF8") {
			t.Errorf("delivery status:\n%s", p.parts[1].body)
		}
		for k := range p.rcpts[0] {
			switch k {
			case "original-recipient", "final-recipient", "action", "status", "remote-mta", "diagnostic-code":
			default:
				t.Errorf("field %q", k)
			}
		}
		for k := range p.message {
			switch k {
			case "reporting-mta", "x-millrace-queue-id", "x-millrace-sender", "original-envelope-id", "arrival-date":
			default:
				t.Errorf("field %q", k)
			}
		}
		if full && clean(original) && len(original) <= MaxContent && p.parts[2].body != string(original) {
			t.Errorf("returned %q, want %q", p.parts[2].body, original)
		}
	})
}
