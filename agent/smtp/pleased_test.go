package smtp

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
)

// pleased is a server that accepts everything but recipients that begin with "no".
// Like real servers it answers a group of commands with one write.
type pleased struct {
	tls      *tls.Config
	offers   []string // EHLO keywords; STARTTLS must be the first
	accepted func()   // if not nil, called before the reply to a message
}

func (p pleased) serve(nc net.Conn) {
	in, out := bufio.NewReader(nc), bufio.NewWriter(nc)
	say := func(s string) { _, _ = out.WriteString(s + "\r\n") }
	say("220 mx.example")
	good, data := 0, false
	queued := func() {
		if p.accepted != nil {
			p.accepted()
		}
		say("250 queued")
	}
	for {
		if in.Buffered() == 0 && out.Flush() != nil {
			return
		}
		l, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.TrimSpace(l), " "); {
		case data:
			if verb == "." {
				data = false
				queued()
			}
		case verb == "EHLO":
			say("250-mx.example\r\n250-" + strings.Join(p.offers, "\r\n250-") + "\r\n250 HELP")
		case verb == "STARTTLS":
			say("220 go")
			_ = out.Flush()
			tc := tls.Server(nc, p.tls)
			if tc.Handshake() != nil {
				return
			}
			in, out, p.offers = bufio.NewReader(tc), bufio.NewWriter(tc), p.offers[1:]
		case verb == "MAIL":
			good = 0
			say("250 ok")
		case verb == "RCPT" && strings.HasPrefix(l, "RCPT TO:<no"):
			say("550 5.1.1 no such user")
		case verb == "RCPT":
			good++
			say("250 ok")
		case verb == "DATA" && good > 0:
			data = true
			say("354 go")
		case verb == "BDAT":
			var n int
			_, _ = fmt.Sscanf(l, "BDAT %d LAST", &n)
			if _, err := in.Discard(n); err != nil {
				return
			}
			if good > 0 {
				queued()
			} else {
				say("503 no recipients")
			}
		case verb == "DATA":
			say("503 no recipients")
		default:
			say("250 ok")
		}
	}
}
