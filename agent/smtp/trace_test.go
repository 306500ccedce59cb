package smtp

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The transcript has both sides in the order of the dialogue, no secret and no
// content in it.
func TestTraceShowsTheDialogue(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	script := `S: 220 mx.example ESMTP
C: EHLO client.example
S: 250-mx.example
S: 250 STARTTLS
C: STARTTLS
S: 220 go
tls
C: EHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250 AUTH LOGIN PLAIN
C: AUTH PLAIN AG1lAGEgc2VjcmV0
S: 235 2.7.0 welcome
C: MAIL FROM:<s@a.example>
C: RCPT TO:<r@b.example>
C: DATA
S: 250 ok
Q: "250 \x1b[31mred\xff\x00\u009b\r\n"
S: 354 go
B: "Subject: x\r\n\r\nhello\r\n"
S: 250 done
C: QUIT
S: 221 bye
wait`
	played := make(chan error, 1)
	addr := listen(t, func(nc net.Conn) { played <- play(nc, strings.Split(script, "\n"), id.server) })
	var lines []string
	began := time.Now()
	c, err := Dial(t.Context(), addr, Options{
		Hello: "client.example", TLS: Verify, ServerName: "mx.example", TLSConfig: id.client, Timeouts: patient(),
		Auth: &Auth{User: "me", Password: "a secret"},
		Trace: func(e TraceEvent) {
			if e.Time.Before(began) {
				t.Errorf("%v is before the start", e.Time)
			}
			lines = append(lines, fmt.Sprintf("%v %s", e.From, e.Line))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), message("s@a.example", "r@b.example")); err != nil {
		t.Fatal(err)
	}
	c.Quit(t.Context())
	if err := <-played; err != nil {
		t.Error(err)
	}
	want := `-- connected to 127\.0\.0\.1:\d+
S: 220 mx\.example ESMTP
C: EHLO client\.example
S: 250-mx\.example
S: 250 STARTTLS
C: STARTTLS
S: 220 go
-- TLS 1\.3, TLS_\w+, certificate of CN=mx\.example, verified for mx\.example
C: EHLO client\.example
S: 250-mx\.example
S: 250-PIPELINING
S: 250 AUTH LOGIN PLAIN
C: AUTH PLAIN \*
S: 235 2\.7\.0 welcome
C: MAIL FROM:<s@a\.example>
C: RCPT TO:<r@b\.example>
C: DATA
S: 250 ok
S: 250 \?\[31mred\?\?\?
S: 354 go
C: \[24 octets of content\]
S: 250 done
C: QUIT
S: 221 bye`
	if got := strings.Join(lines, "\n"); !regexp.MustCompile(`^` + want + `$`).MatchString(got) {
		t.Errorf("%s", got)
	}
}

// Each line of AUTH LOGIN is masked, a chunk is counted, and what broke is told.
func TestTraceOfLoginAndChunk(t *testing.T) {
	t.Parallel()
	script := `S: 220 mx.example ESMTP
C: EHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-CHUNKING
S: 250 AUTH LOGIN
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: bWU=
S: 334 UGFzc3dvcmQ6
C: YSBzZWNyZXQ=
S: 235 welcome
C: MAIL FROM:<s@a.example>
C: RCPT TO:<r@b.example>
C: BDAT 21 LAST
K: "Subject: x\r\n\r\nhello\r\n"
S: 250 ok
S: 250 ok
S: 250 done
wait`
	played := make(chan error, 1)
	addr := listen(t, func(nc net.Conn) { played <- play(nc, strings.Split(script, "\n"), nil) })
	var said []string
	c, err := Dial(t.Context(), addr, Options{
		Hello: "client.example", Timeouts: patient(), Auth: &Auth{User: "me", Password: "a secret"},
		Trace: func(e TraceEvent) {
			if e.From == Client {
				said = append(said, e.Line)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tx := message("s@a.example", "r@b.example")
	tx.Size = 21
	if _, err := c.Send(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-played; err != nil {
		t.Error(err)
	}
	want := "EHLO client.example|AUTH LOGIN|*|*|MAIL FROM:<s@a.example>|RCPT TO:<r@b.example>|BDAT 21 LAST|[21 octets of content]"
	if got := strings.Join(said, "|"); got != want {
		t.Errorf("%s", got)
	}
}
