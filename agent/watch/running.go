package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/loop"
)

// runningEvery is how soon a stopped host MTA stops us, and a started one lets us go on.
const runningEvery = 5 * time.Second

// RunningLoop keeps a pause on while the host MTA is stopped, where [agent]
// stop_with_host asks for that.
func (w *Watch) RunningLoop(ctx context.Context) {
	loop.Every(ctx, runningEvery, func(time.Time) { w.PollRunning() })
}

// PollRunning looks whether the host MTA runs. An unknown state counts as running.
func (w *Watch) PollRunning() {
	c := w.settings.Now().Config
	stopped := false
	if c.Agent.StopWithHost {
		up, err := listening(c.Handback.Relay)
		stopped = err == nil && !up
	}
	if !w.orders.SetHostStopped(stopped) {
		return
	}
	if stopped {
		w.log.Warn("the host MTA is stopped, and so is sending (stop_with_host)", "relay", c.Handback.Relay)
	} else {
		w.log.Info("the host MTA runs, and sending goes on", "relay", c.Handback.Relay)
	}
	if err := w.orders.Change(func(*control.StandingOrders) error { return nil }); err != nil {
		w.log.Error("brake of stop_with_host", "err", err)
	}
}

// listening reports whether somebody listens at a relay on this host. It does not
// connect, which the host MTA would log: an address where somebody listens cannot be
// bound, also with SO_REUSEADDR, and one that is bound so, without listening, keeps
// nobody from it (socket(7)).
func listening(relay string) (bool, error) {
	if path := config.RelaySocket(relay); path != "" {
		up, err := alive(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // the MTA has not made it yet
		}
		return up, err
	}
	return bound(relay)
}

// alive reports whether the process that made a Unix socket has it still: the file
// outlives it. A datagram socket that connects there is told just that, and nobody
// else hears of it: EPROTOTYPE, as it is of another type, or ECONNREFUSED (unix(7)).
// Other errors tell that the path cannot be reached.
func alive(path string) (bool, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("socket: %w", err)
	}
	defer syscall.Close(fd)
	switch err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); {
	case err == nil || errors.Is(err, syscall.EPROTOTYPE):
		return true, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return false, nil
	default:
		return false, &fs.PathError{Op: "connect", Path: path, Err: err}
	}
}

// bound is listening for a TCP address.
func bound(address string) (bool, error) {
	to, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return false, err
	}
	family, sa := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: to.Port, Addr: [16]byte(to.IP.To16())})
	if ip := to.IP.To4(); ip != nil {
		family, sa = syscall.AF_INET, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(ip)}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("socket: %w", err)
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return false, fmt.Errorf("setsockopt: %w", err)
	}
	switch err := syscall.Bind(fd, sa); {
	case errors.Is(err, syscall.EADDRINUSE):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("bind %s: %w", address, err)
	}
	return false, nil
}
