package outcomes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/agent/eventlog"
)

// childVar tells the test program to be one that is killed, or whose disk is full.
const childVar = "MILLRACE_TEST_OUTCOMES"

func child(what string) {
	dir, number, _ := strings.Cut(what, "|")
	var err error
	if number == "" {
		err = playFullDisk(dir)
	} else {
		err = playVictim(dir, number)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// victim is an Outcomes outside of a test.
func victim(dir string) *Outcomes {
	o := New(Options{
		StateDirectory: dir, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return noon },
		Free: func(string) (int64, error) { return math.MaxInt64, nil },
	})
	o.Use(week)
	return o
}

// playVictim keeps outcomes until it is killed, of days that change all the time.
func playVictim(dir, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	o := victim(dir)
	for i := n * 1_000_000; ; i++ {
		o.Add(sent(noon.Add(time.Duration(i/700%3)*-24*time.Hour), i))
		if i%500 == 0 {
			o.fill(context.Background(), true)
			if why := o.Trouble(); why != "" {
				return errors.New(why)
			}
			fmt.Println("filled")
		}
	}
}

// kills is how often the program is killed.
var kills = 20

// TestKilledAgainAndAgain kills a program that keeps outcomes with SIGKILL. In the end each event that
// the log has is one row, and counted once.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for n := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"="+dir+"|"+strconv.Itoa(n))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewReader(out)
		for range rand.IntN(8) + 1 {
			if line, err := said.ReadString('\n'); err != nil || line != "filled\n" {
				t.Fatalf("%q, %v", line, err)
			}
		}
		moment, done := context.WithTimeout(t.Context(), time.Duration(rand.IntN(5000))*time.Microsecond)
		<-moment.Done()
		done()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(said)
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("it ended by itself: %s, %v", rest, err)
		}
	}
	b := begin(t, dir, week)
	b.fill()
	b.well()
	events := 0
	var batch eventlog.Batch
	for more := true; more; more = batch.More {
		if err := b.events.Load().Read(batch.Next, 10_000, &batch); err != nil {
			t.Fatal(err)
		}
		events += len(batch.Records)
	}
	rows, totals := b.counts()
	distinct := 0
	for _, path := range b.files() {
		distinct += query(t, path, "SELECT count(DISTINCT message) FROM attempts")
	}
	if events < kills || rows != events || totals != events || distinct != events {
		t.Errorf("%d events, %d rows, %d of them distinct, %d counted", events, rows, distinct, totals)
	}
	for _, path := range b.files() {
		if query(t, path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'") != 0 {
			t.Errorf("%s is damaged", path)
		}
	}
	t.Logf("%d events, %d kills", events, kills)
}

// TestFullDisk has a file system of its own that becomes full.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func playFullDisk(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("state", dir, "tmpfs", 0, "size=8m"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	o := victim(dir)
	defer func() { o.Close() }()
	ctx := context.Background()
	add := func(from, to int) {
		for i := from; i < to; i++ {
			o.Add(sent(noon, i))
		}
		o.hasty = time.Time{}
		o.fill(ctx, true)
	}
	add(0, 1000)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	n := 1000
	for ; o.Trouble() == ""; n += 1000 {
		add(n, n+1000)
		if n > 100_000 {
			return errors.New("a full disk is not told")
		}
	}
	for range 5 {
		add(n, n+1000)
		n += 1000
	}
	if err := errors.Join(filler.Close(), os.Remove(filler.Name())); err != nil {
		return err
	}
	for range 3 {
		add(n, n)
	}
	if why := o.Trouble(); why != "" {
		return fmt.Errorf("with room again: %s", why)
	}
	if st := o.Stats(); st.Lost != 0 || int(st.Rows) != n {
		return fmt.Errorf("%d events, %+v", n, st)
	}
	// It is read-only at the next start, as after an error of the disk, and later writable.
	for i := n; i < n+1000; i++ {
		o.Add(sent(noon, i))
	}
	l := o.events.Swap(nil)
	if err := errors.Join(l.Flush(ctx), l.Close(ctx)); err != nil {
		return err
	}
	o.Close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	o = victim(dir)
	add(n+1000, n+1010)
	if o.Trouble() == "" {
		return errors.New("a read-only disk is not told")
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	for range 3 {
		add(n, n)
	}
	if st := o.Stats(); o.Trouble() != "" || st.Lost != 0 || st.Rows != 1010 {
		return fmt.Errorf("writable again: %q, %+v", o.Trouble(), st)
	}
	return nil
}
