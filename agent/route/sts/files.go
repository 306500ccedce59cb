package sts

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/durable"
)

// files keeps policies on disk. A file is a header of ours, an empty line, and
// the policy in its own format:
//
//	domain: example.com
//	id: 20260101
//	fetched: 2026-01-01T12:00:00Z
//
//	version: STSv1
//	...
//
// Its name is a hash of the domain's, so that nothing a stranger chose becomes
// part of a path.
type files struct {
	dir   string
	limit int   // files
	most  int64 // octets, in whole blocks

	mu     sync.Mutex
	n      int   // files; an upper bound
	octets int64 // that they take on the disk, likewise
}

// block is what a file takes on the disk for its last octets.
const block = 4 << 10

// onDisk is what a file of a size takes there.
func onDisk(size int64) int64 { return (size + block - 1) / block * block }

const suffix = ".sts"

// open makes the directory, counts the files and clears away what a crash left.
func (f *files) open() error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case suffix:
			f.n++
			if info, err := e.Info(); err == nil {
				f.octets += onDisk(info.Size())
			}
		case durable.Suffix:
			_ = os.Remove(filepath.Join(f.dir, e.Name()))
		}
	}
	return nil
}

// FileName is the name of a domain's file in the directory.
func FileName(domain string) string {
	sum := sha256.Sum256([]byte(domain))
	return hex.EncodeToString(sum[:16]) + suffix
}

func (f *files) path(domain string) string { return filepath.Join(f.dir, FileName(domain)) }

// read returns the stored policy of a domain, nil if there is none that can be read.
func (f *files) read(domain string) *Policy {
	text, err := os.ReadFile(f.path(domain))
	if err != nil {
		return nil
	}
	head, body, _ := strings.Cut(string(text), "\n\n")
	p, err := parsePolicy(body)
	if err != nil {
		return nil
	}
	var whose string
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "domain":
			whose = value
		case "id":
			p.ID = value
		case "fetched":
			p.Fetched, err = time.Parse(time.RFC3339, value)
		}
	}
	if err != nil || whose != domain {
		return nil
	}
	return p
}

// write stores a policy.
func (f *files) write(domain string, p *Policy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := f.path(domain)
	var b bytes.Buffer
	fmt.Fprintf(&b, "domain: %s\nid: %s\nfetched: %s\n\n", domain, p.ID, p.Fetched.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "version: STSv1\nmode: %s\nmax_age: %d\n", p.Mode, int64(p.MaxAge/time.Second))
	for _, mx := range p.MX {
		fmt.Fprintf(&b, "mx: %s\n", mx)
	}
	files, octets := f.more(path, onDisk(int64(b.Len())))
	if f.n+files > f.limit || f.octets+octets > f.most {
		if err := f.makeRoom(octets); err != nil {
			return err
		}
		files, octets = f.more(path, onDisk(int64(b.Len()))) // what it replaces may be gone
	}
	if err := durable.Replace(path, b.Bytes()); err != nil {
		return err
	}
	f.n, f.octets = f.n+files, f.octets+octets
	return nil
}

// more is how many files and octets more there are once a file of so many octets is written.
func (f *files) more(path string, octets int64) (int, int64) {
	if old, err := os.Stat(path); err == nil {
		return 0, octets - onDisk(old.Size())
	}
	return 1, octets
}

// makeRoom removes the oldest files until there is room for so many octets, and there are a
// tenth fewer than there may be, of octets too, so that it is rarely needed.
func (f *files) makeRoom(octets int64) error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	type aged struct {
		name   string
		at     time.Time
		octets int64
	}
	var list []aged
	f.n, f.octets = 0, 0
	for _, e := range entries {
		if info, err := e.Info(); err == nil && filepath.Ext(e.Name()) == suffix {
			list = append(list, aged{e.Name(), info.ModTime(), onDisk(info.Size())})
			f.n, f.octets = f.n+1, f.octets+onDisk(info.Size())
		}
	}
	slices.SortFunc(list, func(a, b aged) int { return a.at.Compare(b.at) })
	for _, a := range list {
		if f.n <= f.limit-max(1, f.limit/10) && f.octets <= f.most-max(f.most/10, octets) {
			break
		}
		if err := os.Remove(filepath.Join(f.dir, a.name)); err != nil {
			return err
		}
		f.n, f.octets = f.n-1, f.octets-a.octets
	}
	return nil
}
