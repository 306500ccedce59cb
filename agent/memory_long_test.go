//go:build long

package agent

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
)

var fullSpool = flag.Int("recipients", 2_000_000, "how many messages of one recipient TestStartOnAFullSpool has in its spool")

// TestStartOnAFullSpool starts the program, with a cold cache where it may drop it, on
// a spool that has max_recipients, half of them deferred, and prints what it took: with the limit
// that follows from max_recipients, without one, and with one that is too low.
func TestStartOnAFullSpool(t *testing.T) {
	n := *fullSpool
	s := newStage(t, nil)
	s.flood(n, func(i int) (spool.Envelope, string) {
		return spool.Envelope{Sender: "n@news.test", Stream: fmt.Sprint("stream", i%50)}, fmt.Sprintf("u%d@d%d.test", i, i%1000)
	})
	s.writer.Close()
	postpone(t, s.config.Spool.Directory)

	dir := t.TempDir()
	program := filepath.Join(dir, "millrace-agent")
	if text, err := exec.Command("go", "build", "-o", program, "../cmd/millrace-agent").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	quiet, err := net.ListenPacket("udp", "127.0.0.1:0") // the resolver: no mail leaves
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	file := filepath.Join(dir, "millrace.toml")
	text := fmt.Sprintf("hostname = \"mail.test\"\n[spool]\ndirectory = %q\nmax_recipients = %d\n[agent]\ncontrol = \"unix:%s/control.sock\"\nstate_directory = %q\nresolvers = [%q]\n[agent.http]\nlisten = \"\"\n",
		s.config.Spool.Directory, n, dir, filepath.Join(dir, "state"), quiet.LocalAddr())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	need := memoryNeed(&config.Config{Agent: config.Agent{MaxSessions: 2000}, Spool: config.Spool{MaxRecipients: int64(n)}})
	for _, limit := range []string{"", "off", fmt.Sprint(n * 60)} {
		cold := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) == nil
		c := exec.Command(program, "--config", file)
		c.Env = append(os.Environ(), "GOMEMLIMIT="+limit)
		log, err := c.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(log); lines.Scan() && !strings.HasSuffix(lines.Text(), "msg=ready"); {
		}
		took := time.Since(began)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		cpu := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		var peak int64
		for line := range strings.Lines(string(status)) {
			if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				fmt.Sscan(kb, &peak)
			}
		}
		t.Logf("%d recipients, GOMEMLIMIT=%q, cold %v: read in %v, %v of CPU, peak %d MB, %d octets a recipient; memoryNeed %d MB",
			n, limit, cold, took.Round(time.Millisecond), cpu.Round(time.Millisecond), peak>>10, peak<<10/int64(n), need>>20)
		if limit == "" && peak<<10 > need {
			t.Errorf("peak %d MB", peak>>10)
		}
	}
}

// postpone defers every other message for some hours.
func postpone(t *testing.T, dir string) {
	t.Helper()
	st, err := spool.OpenStore(dir, spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var events []spool.Event
	n := 0
	err = st.Load(func(id spool.ID, _ *spool.Envelope, _ []spool.State) error {
		if n++; n%2 == 0 {
			events = append(events, spool.Event{ID: id, State: spool.State{
				Tries: 1, Due: time.Now().Add(4*time.Hour + time.Duration(n%3600)*time.Second),
				Reply: "host mx.test[192.0.2.1] said: 450 4.2.1 mailbox busy (in reply to RCPT TO command)",
			}})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(events, 1000) {
		if err := st.Record(part...); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}
