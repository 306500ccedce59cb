package program

import (
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the service manager, told of our state by datagrams (sd_notify(3)). Its
// socket stays open: who has no descriptor left must still be able to say that he lives.
type manager struct {
	log  *slog.Logger
	path string // "": there is none
	mu   sync.Mutex
	conn *net.UnixConn
}

func newManager(log *slog.Logger, path string) *manager {
	if rest, ok := strings.CutPrefix(path, "@"); ok {
		path = "\x00" + rest // the abstract name space
	}
	m := &manager{log: log, path: path}
	if path != "" {
		if err := m.dial(); err != nil {
			log.Warn("cannot notify the service manager", "err", err)
		}
	}
	return m
}

func (m *manager) dial() error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err == nil {
		m.conn = c
	}
	return err
}

// tell sends a state. A manager that was executed anew has another socket at the old
// place, so a second try goes there.
func (m *manager) tell(state string) {
	if m.path == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	err := net.ErrClosed
	if m.conn != nil {
		_, err = m.conn.Write([]byte(state))
	}
	if err != nil {
		old := m.conn
		if err = m.dial(); err == nil {
			if old != nil {
				old.Close()
			}
			_, err = m.conn.Write([]byte(state))
		}
	}
	if err != nil {
		m.log.Warn("cannot notify the service manager", "err", err)
	}
}

// monotonic is the time that RELOADING=1 must carry, in microseconds.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano() / 1000
}

// watchdogInterval is half the time that WATCHDOG_USEC allows; 0 without one.
func watchdogInterval(usec string) time.Duration {
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 {
		return 0
	}
	return time.Duration(n) * time.Microsecond / 2
}
