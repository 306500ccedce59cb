package milter_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab/pipes"
)

// script makes a conversation of octets: each but a few stands for a packet that
// an MTA sends, in whatever order.
func script(b []byte) (packets [][]byte) {
	body := bodyPacket(chunk)
	for len(b) > 0 && len(packets) < 100 {
		op := b[0]
		b = b[1:]
		var p []byte
		switch op % 18 {
		case 0:
			p = appendPacket(nil, 'M', "<a@b.example>", "SIZE=100")
		case 1:
			p = appendPacket(appendPacket(nil, 'D', "R{rcpt_mailer}", "smtp", "{rcpt_host}", "d.example"), 'R', "<c@d.example>")
		case 2:
			p = appendPacket(nil, 'R', "<local@b.example>")
		case 3:
			p = appendPacket(nil, 'L', "Subject", " x")
		case 4:
			p = appendPacket(nil, 'N')
		case 5:
			p = bodyPacket(1)
		case 6:
			p = body
		case 7:
			p = appendPacket(nil, 'B', "bare\n")
		case 8:
			p = appendPacket(nil, 'E')
		case 9:
			p = appendPacket(nil, 'A')
		case 10:
			p = appendPacket(nil, 'M', "<stay@b.example>")
		case 11:
			p = appendPacket(nil, 'H', "again")
		case 12:
			p = appendPacket(nil, 'D', "M{auth_authen}", "joe")
		case 13:
			p = append(appendPacket(nil, 'K'), appendPacket(nil, 'C', "other\x004\x00\x19192.0.2.2")...)
		case 14:
			p = appendPacket(nil, 'T')
		case 15:
			p = appendPacket(nil, 'U', "XYZZY")
		case 16:
			p = appendPacket(nil, 'Q')
		case 17: // octets as they are
			n := min(len(b), int(op)/18)
			p, b = b[:n], b[n:]
		}
		packets = append(packets, p)
	}
	return packets
}

// Whatever an MTA says: a message that is in the spool is released if the MTA
// was told to forget it, void if not, never both; and the MTA is told so of no
// message that is not in the spool.
func FuzzSession(f *testing.F) {
	const whole = "\x00\x01\x03\x04\x05\x08"
	f.Add(byte(0), []byte(whole))
	f.Add(byte(0), []byte(whole+"\x09\x00\x01\x02\x04\x06\x06\x06\x08"+whole))
	f.Add(byte(0), []byte("\x00\x01\x04\x06\x06\x09\x00\x01\x04\x06\x06\x07\x08\x10"))
	f.Add(byte(1), []byte("\x00\x01\x04\x06\x06\x08\x0a\x01\x04"))
	f.Add(byte(2), []byte(whole+whole))
	f.Add(byte(4), []byte("\x00\x01\x04\x06\x06\x08\x0d\x0c"+whole))
	f.Add(byte(8), []byte(whole+"\x23\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, setting byte, b []byte) {
		cfg := limited(0, 1)
		sp := &fakeSpool{}
		if setting&1 != 0 {
			cfg.Milter.MaxMessageSize = 100_000
		}
		if setting&2 != 0 {
			sp.err = errors.New("disk on fire")
		}
		if setting&4 != 0 {
			cfg.Milter.MaxBodies = 0
		}
		if setting&8 != 0 {
			cfg.Milter.Verdict = config.VerdictDiscard
		}
		ln := pipes.New()
		s := serveOn(t, cfg, sp, ln)
		m := dial(t, ln)
		told := make(chan int)
		go func() {
			n, deletes := 0, false
			defer func() { told <- n }()
			for {
				code, err := m.reply()
				if err != nil {
					return
				}
				if code == '-' {
					deletes = true
					continue
				}
				if code == 'd' || deletes {
					n++
					if kept := len(sp.all()); kept < n {
						t.Errorf("MTA told to forget %d messages, %d are in the spool", n, kept)
					}
				}
				deletes = false
			}
		}()
		for _, p := range script(b) {
			if _, err := m.Write(p); err != nil {
				break
			}
		}
		m.Close()
		n := <-told
		s.stop()
		released := 0
		for _, k := range sp.all() {
			if len(k.verdict) != 1 {
				t.Fatalf("a message was settled %d times", len(k.verdict))
			}
			if <-k.verdict == "released" {
				released++
			}
		}
		if released != n {
			t.Errorf("MTA told to forget %d messages, %d were released", n, released)
		}
		if strings.Contains(s.log.String(), "panic") {
			t.Error("a panic")
		}
	})
}
