package simulate

import (
	"bufio"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// TestDialogue is a session, line by line: what is said, and what begins each answer.
func TestDialogue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var reports []string
		r := New(slog.New(slog.DiscardHandler), func(m []byte) error {
			mu.Lock()
			defer mu.Unlock()
			reports = append(reports, string(m))
			return nil
		})
		conn, err := r.Dial(t.Context(), "unix", "simulated")
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		hear := func() string {
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if line[3] == ' ' {
					return line
				}
			}
		}
		ask := func(say, want string) {
			t.Helper()
			if _, err := conn.Write([]byte(say + "\r\n")); err != nil {
				t.Fatal(err)
			}
			if got := hear(); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q", say, got)
			}
		}
		hear()
		ask("EHLO me", "250 ")
		ask("MAIL FROM:<n@news.test> BODY=8BITMIME", "250 ")
		ask("RCPT TO:<bounce@s.test>", "550 5.1.1 ")
		ask("RCPT TO:<Defer+1@s.test>", "450 4.2.1 ")
		ask("DATA", "554 ")
		ask("RCPT TO:<bouncer@s.test>", "250 ")
		ask("DATA", "354 ")
		ask("Subject: x\r\n\r\n..\r\n.", "250 ")
		ask("MAIL FROM:<n@news.test>", "250 ")
		ask("RCPT TO:<complain+7@s.test>", "250 ")
		ask("RCPT TO:<b@s.test>", "452 ")
		ask("DATA", "354 ")
		ask("Received: mark\r\nSubject: "+strings.Repeat("x", 3*maxHead)+strings.Repeat("\r\nX: "+strings.Repeat("x", maxLine/2), 10)+"\r\n\r\nsecret body\r\n.", "250 ")
		synctest.Wait()
		mu.Lock()
		if len(reports) > 0 {
			t.Error("a complaint comes at once")
		}
		mu.Unlock()
		time.Sleep(complainAfter)
		synctest.Wait()
		ask("NOOP", "250 ")
		ask("WHAT", "502 ")
		ask("MAIL FROM:<n@news.test>", "250 ")
		ask("RCPT TO:<complain-8@s.test>", "250 ")
		ask("DATA", "354 ")
		ask(".", "250 ")
		ask("QUIT", "221 ")
		conn.Close()
		r.Wait()
		if len(reports) != 2 || !strings.Contains(reports[0], "\r\nReceived: mark\r\n") || !strings.Contains(reports[0], "Original-Rcpt-To: <complain+7@s.test>\r\n") ||
			strings.Contains(reports[0], "secret body") || len(reports[0]) > 2*maxHead {
			t.Errorf("%.600q", reports)
		}
	})
}
