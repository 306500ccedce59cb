package milter

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// Listen opens the sockets of milter.listen. Sockets that systemd hands over
// (LISTEN_FDS, sd_listen_fds(3)) are taken instead of them.
func Listen(addresses []string) ([]net.Listener, error) {
	listeners, err := activated(os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"))
	if err != nil || len(listeners) > 0 {
		return listeners, err
	}
	for _, a := range addresses {
		// The MTA's group may connect, nobody else.
		ln, err := ListenAt(a, 0o660)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

// ListenAt opens one socket; the mode is that of a Unix socket's file.
func ListenAt(address string, mode os.FileMode) (net.Listener, error) {
	network, addr, err := config.ParseListen(address)
	if err != nil {
		return nil, fmt.Errorf("milter socket: %w", err)
	}
	if network == "unix" {
		if err := removeStale(addr); err != nil {
			return nil, fmt.Errorf("milter socket: %w", err)
		}
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("milter socket: %w", err)
	}
	if network == "unix" {
		if err := os.Chmod(addr, mode); err != nil {
			ln.Close()
			return nil, fmt.Errorf("milter socket: %w", err)
		}
	}
	return ln, nil
}

// removeStale removes the socket of a program that is gone. One that answers,
// and anything that is not a socket, stays and is an error.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s is in use by a running program", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// firstFD is SD_LISTEN_FDS_START.
const firstFD = 3

// activated takes the sockets that systemd passed to this process.
func activated(pid, count string) ([]net.Listener, error) {
	n, err := strconv.Atoi(count)
	if pid != strconv.Itoa(os.Getpid()) || err != nil || n <= 0 {
		return nil, nil
	}
	var listeners []net.Listener
	for fd := firstFD; fd < firstFD+n; fd++ {
		f := os.NewFile(uintptr(fd), "LISTEN_FD_"+strconv.Itoa(fd))
		ln, err := net.FileListener(f)
		f.Close() // FileListener has a copy
		if err != nil {
			return listeners, fmt.Errorf("socket %d passed by systemd: %w", fd, err)
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}
