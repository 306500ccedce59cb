package postconf

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// postfix runs postfix(1); its words are the error's. Its script says on a terminal
// alone what is wrong, and elsewhere to the log: so it gets a terminal.
func postfix(ctx context.Context, dir, verb string) error {
	path := "postfix"
	if _, err := exec.LookPath(path); err != nil {
		path = filepath.Join("/usr/sbin", path) // an admin's PATH may lack it
	}
	cmd := exec.CommandContext(ctx, path, "-c", dir, verb)
	words, err := onTerminal(cmd)
	if err != nil {
		return fmt.Errorf("postfix -c %s %s: %w\n%s", dir, verb, err, words)
	}
	return nil
}

// onTerminal runs a program with a terminal as its standard error, and returns what it
// wrote. A child that stays, as master(8) does, may hold the terminal open: what it
// writes later is not waited for.
func onTerminal(cmd *exec.Cmd) (words string, err error) {
	ours, theirs, err := terminal()
	if err != nil { // no /dev/pts here: what it says without one is better than nothing
		out, err := cmd.CombinedOutput()
		return string(bytes.TrimSpace(out)), err
	}
	defer ours.Close()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = theirs, theirs
	if err := cmd.Start(); err != nil {
		theirs.Close()
		return "", err
	}
	theirs.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&out, io.LimitReader(ours, 64<<10)) // ends with EIO when nobody holds it
	}()
	err = cmd.Wait()
	// What was written before the end is in the terminal's buffer already.
	_ = ours.SetReadDeadline(time.Now().Add(time.Second))
	<-done
	return string(bytes.TrimSpace(bytes.ReplaceAll(out.Bytes(), []byte("\r\n"), []byte("\n")))), err
}

// terminal makes a pseudo-terminal (pty(7)).
func terminal() (ours, theirs *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	ours = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		var n uint32
		if n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN); err == nil {
			theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
		}
	}
	if err != nil {
		ours.Close()
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return ours, theirs, nil
}
