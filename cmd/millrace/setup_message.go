package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/printable"
)

// testPort is where a host's own clients bring their mail.
const testPort = "127.0.0.1:25"

// testMessage sends a message to the host's postmaster, and says what Millrace
// made of it. That it stays with Postfix, as mail to the host itself must, shows
// that Millrace was asked.
func testMessage(ctx context.Context, out io.Writer, hostname string) {
	qid, err := submit(ctx, testPort, hostname)
	if err != nil {
		printable.Fprintf(out, "no test message: %v\n", err)
		return
	}
	printable.Fprintf(out, "test message to postmaster: %s\n", qid)
	verdict := verdictOf(ctx, qid)
	if verdict == "" {
		printable.Fprintf(out, "no word of it from millrace-milter; look for qid=%s in its log, and whether it runs\n", qid)
		return
	}
	printable.Fprintf(out, "millrace-milter: %s\n", verdict)
}

// submit hands a message over and returns the queue id in Postfix's answer.
func submit(ctx context.Context, address, hostname string) (qid string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	c := textproto.NewConn(raw)
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		return "", err
	}
	last := ""
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO " + hostname, 250}, {"MAIL FROM:<postmaster@" + hostname + ">", 250}, {"RCPT TO:<postmaster>", 250}, {"DATA", 354},
		{"From: postmaster\r\nTo: postmaster\r\nSubject: Millrace is set up\r\nX-Millrace: divert\r\n\r\n" +
			"This message shows that Postfix asks Millrace. It is to this host, so it was left with Postfix.\r\n.", 250},
		{"QUIT", 221},
	} {
		if err := c.PrintfLine("%s", step.line); err != nil {
			return "", err
		}
		_, text, err := c.ReadResponse(step.code)
		if err != nil {
			return "", err
		}
		if step.line != "QUIT" {
			last = text
		}
	}
	_, qid, ok := strings.Cut(last, "queued as ")
	if !ok {
		return "", fmt.Errorf("it was taken (%s), and its queue id is not known", last)
	}
	return strings.TrimSpace(qid), nil
}

// verdictOf looks for the milter's line about a message, where it may be.
func verdictOf(ctx context.Context, qid string) string {
	for range 20 {
		for _, look := range []func(context.Context) ([]byte, error){
			func(ctx context.Context) ([]byte, error) {
				return exec.CommandContext(ctx, "journalctl", "-u", "millrace-milter", "--since", "-2min", "-o", "cat").Output()
			},
			func(context.Context) ([]byte, error) { return os.ReadFile(mailLog) },
		} {
			text, err := look(ctx)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				if _, rest, ok := strings.Cut(line, "msg=verdict "); ok && strings.Contains(rest, "qid="+qid+" ") {
					return strings.TrimSpace(rest)
				}
			}
		}
		select {
		case <-ctx.Done():
			return ""
		case <-time.After(500 * time.Millisecond):
		}
	}
	return ""
}
