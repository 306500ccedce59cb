package maillog

import (
	"errors"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Plain writes lines as the file of a syslog daemon has them, header and all.
type Plain struct {
	// To takes each line in one write.
	To io.Writer
	// Daemon is the tag of lines that are about no message.
	Daemon string
	// Journal leaves time and host out, which the journal has.
	Journal bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// WriteLine implements Writer.
func (p *Plain) WriteLine(name Program, _ slog.Level, text string) error {
	b := make([]byte, 0, len(text)+80)
	if !p.Journal {
		now := time.Now
		if p.Now != nil {
			now = p.Now
		}
		b = now().AppendFormat(b, time.Stamp+" ")
		b = append(append(b, hostname()...), ' ')
	}
	b = append(append(b, tag(p.Daemon, name)...), '[')
	b = append(strconv.AppendInt(b, int64(os.Getpid()), 10), "]: "...)
	b = append(append(b, text...), '\n')
	_, err := p.To.Write(b)
	return err
}

// hostname is this host's name without its domain, as syslog daemons write it.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	name, _, _ = strings.Cut(name, ".")
	return name
}

// Syslog sends lines to the host's syslog daemon, facility mail.
type Syslog struct {
	daemon  string // tag of lines that are about no message
	network string // of the socket; "": where this system has it
	address string

	mu   sync.Mutex
	tags map[Program]*syslog.Writer
}

// OpenSyslog connects to the socket that this system has for syslog.
func OpenSyslog(daemon string) (*Syslog, error) { return openSyslog(daemon, "", "") }

func openSyslog(daemon, network, address string) (*Syslog, error) {
	s := &Syslog{daemon: daemon, network: network, address: address, tags: make(map[Program]*syslog.Writer)}
	_, err := s.writer("")
	return s, err
}

// WriteLine implements Writer. A line is lost when the syslog daemon is away; the
// connection is made again for each.
func (s *Syslog) WriteLine(name Program, level slog.Level, text string) error {
	w, err := s.writer(name)
	if err != nil {
		return err
	}
	switch {
	case level >= slog.LevelError:
		return w.Err(text)
	case level >= slog.LevelWarn:
		return w.Warning(text)
	case level >= slog.LevelInfo:
		return w.Info(text)
	}
	return w.Debug(text)
}

// writer is the connection for a tag, which package syslog fixes for each.
func (s *Syslog) writer(name Program) (*syslog.Writer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.tags[name]; w != nil {
		return w, nil
	}
	w, err := syslog.Dial(s.network, s.address, syslog.LOG_MAIL|syslog.LOG_INFO, tag(s.daemon, name))
	if err != nil {
		return nil, err
	}
	s.tags[name] = w
	return w, nil
}

// Close ends the connections.
func (s *Syslog) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, w := range s.tags {
		errs = append(errs, w.Close())
	}
	clear(s.tags)
	return errors.Join(errs...)
}
