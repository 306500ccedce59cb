package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// usage is what a process holds.
type usage struct {
	rss int64 // octets
	fds int
}

func (u usage) String() string {
	return fmt.Sprintf("%.1f MB, %d descriptors", float64(u.rss)/(1<<20), u.fds)
}

// watch looks at both daemons twice a second.
type watch struct {
	mu         sync.Mutex
	began      time.Time
	warm, peak map[string]usage // by daemon: the most within the warm-up, and of the whole run
	warmUp     time.Duration
}

func (w *watch) run(ctx context.Context, s *scene) {
	w.mu.Lock()
	w.began, w.warmUp = time.Now(), warmUp(s.duration)
	w.warm, w.peak = make(map[string]usage), make(map[string]usage)
	w.mu.Unlock()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	report := time.NewTicker(15 * time.Second)
	defer report.Stop()
	for {
		for _, d := range []*daemon{s.agent, s.milter} {
			if u, err := use(int(d.pid.Load())); err == nil { // it may be down
				w.note(d.name, u)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-report.C:
			fmt.Fprintf(s.out, "%6.0fs  %d events, %d copies sent, %d arrived\n",
				time.Since(w.began).Seconds(), s.events.Load(), s.sent.Len(), s.Internet.Ledger().Len())
		}
	}
}

func (w *watch) note(name string, u usage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.peak[name] = most(w.peak[name], u)
	if time.Since(w.began) < w.warmUp {
		w.warm[name] = most(w.warm[name], u)
	}
}

func most(a, b usage) usage { return usage{max(a.rss, b.rss), max(a.fds, b.fds)} }

// use reads what a process holds.
func use(pid int) (u usage, err error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(statm)) // in pages: size, resident
	if len(fields) < 2 {
		return u, fmt.Errorf("statm of %d: %q", pid, statm)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return u, err
	}
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return usage{pages * int64(os.Getpagesize()), len(list)}, err
}

// sessions counts the connections of a process to a port that are up.
func sessions(pid int, port uint16) (int, error) {
	remote := fmt.Sprintf(":%04X", port)
	const connecting = "02" // as /proc/net/tcp has it
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	inodes := make(map[string]bool)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl local remote state queues timer retransmits uid timeout inode
		if w := strings.Fields(lines.Text()); len(w) > 9 && strings.HasSuffix(w[2], remote) && w[3] != connecting {
			inodes["socket:["+w[9]+"]"] = true
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, path := range fds {
		link, err := os.Readlink(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if inodes[link] {
			n++
		}
	}
	return n, nil
}
