package main

import (
	"context"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	gomilter "github.com/emersion/go-milter"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	diverter "github.com/millrace/millrace/milter" // milter is one that check found
)

// TestReportReadsTheMiltersLog lets a milter in observe mode judge a message of
// go-milter's client: what it logs is what the report reads.
func TestReportReadsTheMiltersLog(t *testing.T) {
	t.Parallel()
	w, err := spool.OpenWriter(t.TempDir(), spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := observing()
	var log logbuf.Buffer
	server, err := diverter.New(cfg, diverter.Options{Spool: diverter.FromWriter(w), Logger: log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln) }()

	client := gomilter.NewClientWithOptions("tcp", ln.Addr().String(), gomilter.ClientOptions{
		ActionMask: gomilter.OptRemoveRcpt, ProtocolMask: gomilter.OptHeaderLeadingSpace,
		ReadTimeout: time.Minute, WriteTimeout: time.Minute,
	})
	s, err := client.Session()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(err)
	_, err = s.Conn("app.example", gomilter.FamilyInet, 999, "192.0.2.7")
	check(err)
	check(s.Macros(gomilter.CodeMail, "i", "4fKz1T0Qx9z", "{auth_authen}", "app"))
	_, err = s.Mail("news@example.com", nil)
	check(err)
	for _, r := range []string{"ann@gmail.com", "bob@GMAIL.com", "eve@web.de", "home@example.org"} {
		mailer := "smtp"
		if strings.HasSuffix(r, ".org") {
			mailer = "local"
		}
		check(s.Macros(gomilter.CodeRcpt, "{rcpt_mailer}", mailer, "{rcpt_host}", r[strings.Index(r, "@")+1:]))
		_, err = s.Rcpt(r, nil)
		check(err)
	}
	for _, f := range [][2]string{{"List-Id", " Weekly <weekly.example.com>"}, {"Precedence", " bulk"}} {
		_, err = s.HeaderField(f[0], f[1])
		check(err)
	}
	_, err = s.HeaderEnd()
	check(err)
	check(s.Close())
	check(client.Close())
	cancel()
	check(<-done)

	var got []verdict
	text := log.String()
	check(readVerdicts(strings.NewReader(text), logClock{time.Now(), time.UTC}, func(v *verdict) { got = append(got, *v) }))
	want := verdict{
		Msg: "verdict", QueueID: "4fKz1T0Qx9z", From: "news@example.com", NRcpt: 4, Diverted: 3, Verdict: "observe",
		Rule: "builtin", Stream: "weekly.example.com", Reason: "List-Id, Precedence", Evidence: "structure,opt-in", ToDomains: "gmail.com:2,web.de:1",
	}
	if len(got) == 1 {
		want.Time = got[0].Time
	}
	if len(got) != 1 || got[0].Time.IsZero() || !reflect.DeepEqual(got[0], want) {
		t.Errorf("log:\n%s\nread %+v, want %+v", text, got, want)
	}
}

// observing is a configuration of a milter that observes, by the built-in rules.
func observing() *config.Config {
	return &config.Config{Milter: config.Milter{
		Mode: config.Observe, Scope: []string{"authenticated", "loopback"}, Remote: []string{"smtp"}, BuiltinRules: true,
	}}
}
