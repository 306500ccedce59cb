package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const fullDiskVar = "MILLRACE_SPOOL_TEST_FULL_DISK"

// onFullDisk does so if TestFullDisk started us for it.
func onFullDisk() bool {
	dir := os.Getenv(fullDiskVar)
	if dir == "" {
		return false
	}
	if err := playFullDisk(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return true
}

// TestFullDisk runs playFullDisk in a mount namespace of its own.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // for all that waits in there
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), fullDiskVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// playFullDisk fills a file system of 16 MiB in the middle of a blast, and the
// rest of it by another hand, and lets the agent go on, over a restart, until
// all is well again.
func playFullDisk(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("spool", dir, "tmpfs", 0, "size=16m"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	spool := filepath.Join(dir, "spool")
	w, err := OpenWriter(spool, WriterOptions{SegmentSize: 1 << 20})
	if err != nil {
		return err
	}
	o := StoreOptions{journalStep: 256 << 10, journalMax: 512 << 10, rescan: 100 * time.Millisecond}
	s, err := OpenStore(spool, o)
	if err != nil {
		return err
	}
	if err := s.Load(func(ID, *Envelope, []State) error { return errors.New("mail in a new spool") }); err != nil {
		return err
	}
	left := make(map[ID]string)
	add := func(i int) error {
		e, text := letter(i, 1)
		text += strings.Repeat("0123456789abcde\r\n", 480)
		r, err := w.Append(context.Background(), e, strings.NewReader(text))
		if err != nil {
			return err
		}
		left[r.ID()] = text
		return r.Release()
	}
	for i := 0; err == nil; i++ {
		err = add(i)
	}
	if !errors.Is(err, ErrFull) {
		return fmt.Errorf("append on a full disk: %w", err)
	}
	// What is left of the disk goes to somebody else.
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	fmt.Println(len(left), "messages when the disk was full")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	enough := errors.New("enough")
	var ids []ID
	came := make(map[ID]bool)
	err = s.Follow(ctx, func(id ID, _ *Envelope, _ []State, orphan bool) error {
		if came[id] || orphan {
			return fmt.Errorf("%s came again, or as an orphan", id)
		}
		ids, came[id] = append(ids, id), true
		if len(ids) == len(left) {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		return err
	}
	read := func(id ID) error {
		c, err := s.Open(id)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if err == nil && string(b) != left[id] {
			err = fmt.Errorf("%s: content differs", id)
		}
		return err
	}
	// Each is deferred once. Meanwhile the host's mail stays with the host.
	for i, id := range ids {
		if err := s.Record(Event{ID: id, Recipient: 0, State: State{Tries: 1, Due: time.Unix(1800000000, 0), Reply: "451 4.3.0 later"}}); err != nil {
			return fmt.Errorf("deferral %d: %w", i, err)
		}
	}
	if err := add(-1); !errors.Is(err, ErrFull) {
		return fmt.Errorf("append while full: %w", err)
	}
	// The agent can be started anew on the full disk.
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = OpenStore(spool, o); err != nil {
		return fmt.Errorf("start on a full disk: %w", err)
	}
	n := 0
	err = s.Load(func(id ID, _ *Envelope, states []State) error {
		if n++; states[0].Tries != 1 {
			return fmt.Errorf("%s: %+v", id, states)
		}
		return read(id)
	})
	if err == nil && n != len(left) {
		err = fmt.Errorf("%d messages of %d", n, len(left))
	}
	if err != nil {
		return err
	}
	// One in each segment stays, until the end.
	var stay []ID
	for i, id := range ids {
		if i > 0 && ids[i-1].Segment() == id.Segment() {
			// It may have to wait for room, which comes with what was done before.
			err := s.Record(Event{ID: id, Recipient: 0, State: State{Status: Delivered}})
			for ; errors.Is(err, ErrFull); err = s.Record(Event{ID: id, Recipient: 0, State: State{Status: Delivered}}) {
				time.Sleep(time.Millisecond) // polls; the condition ends it
			}
			if err != nil {
				return fmt.Errorf("outcome %d: %w", i, err)
			}
		} else {
			stay = append(stay, id)
		}
	}
	// Room is back, the same writer takes mail again.
	for err = add(0); errors.Is(err, ErrFull); err = add(0) {
		time.Sleep(time.Millisecond) // polls; the condition ends it
	}
	if err != nil {
		return err
	}
	for _, id := range stay {
		if err := read(id); err != nil {
			return err
		}
		if err := s.Record(Event{ID: id, Recipient: 0, State: State{Status: Delivered}}); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), s.Close()); err != nil {
		return err
	}
	var faults []error
	_, err = Verify(spool, func(f Fault) { faults = append(faults, errors.New(f.String())) })
	return errors.Join(append(faults, err)...)
}
