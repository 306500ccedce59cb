package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// machine is a computer with a file system in memory: it can lose its power, or
// one of its processes. See inode and directory for what that leaves.
type machine struct {
	mu      sync.Mutex
	root    *directory
	procs   []*memFS
	watches []*memWatch

	// fuse counts operations down to the end of a process or, with a nil
	// victim, of all power.
	fuse   int
	victim *memFS
	off    bool // no power any more

	// fault, if set, says which error an operation meets.
	fault  func(op memOp) error
	faults int // how many were met
	rng    *rand.Rand
	// seen, if set, is told of each operation that was done.
	seen func(op memOp)
	// noHoles: the file system cannot punch.
	noHoles bool
	// gate, if set, holds the next sync of a segment up until it is closed.
	gate chan struct{}
}

// memOp is one operation that changes something.
type memOp struct {
	kind string // create, write, truncate, allocate, punch, sync, syncdir, rename, remove, mkdir, lock, unlock
	name string
	off  int64
	data []byte
	file *inode
}

// errKilled is what a process gets that is no more.
var errKilled = errors.New("process was killed")

// injected marks an error that the test wanted.
type injected struct{ error }

func (e injected) Unwrap() error { return e.error }

func isInjected(err error) bool {
	var i injected
	return errors.As(err, &i)
}

func newMachine(rng *rand.Rand) *machine {
	return &machine{root: newDirectory(), rng: rng}
}

// crash returns a machine with what the disk of this one holds.
func (m *machine) crash(rng *rand.Rand) *machine {
	m.powerOff()
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMachine(rng)
	c.root = m.root.crashed(rng, rng.IntN(3) == 0, make(map[*inode]*inode))
	c.seen, c.noHoles = m.seen, m.noHoles
	return c
}

func (m *machine) powerOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = true
	for _, p := range slices.Clone(m.procs) {
		p.end()
	}
}

// memFS is the file system as one process has it.
type memFS struct {
	m     *machine
	dead  chan struct{} // closed at the end of the process
	ended bool
	files map[*memFile]bool
}

var _ FS = (*memFS)(nil)

func (m *machine) process() *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &memFS{m: m, dead: make(chan struct{}), files: make(map[*memFile]bool)}
	m.procs = append(m.procs, p)
	return p
}

// kill is kill -9.
func (p *memFS) kill() {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.end()
}

func (p *memFS) killed() bool {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.ended
}

func (p *memFS) end() {
	if p.ended {
		return
	}
	p.ended = true
	close(p.dead)
	open := slices.SortedFunc(maps.Keys(p.files), func(a, b *memFile) int { return strings.Compare(a.f.name, b.f.name) })
	for _, f := range open {
		f.drop()
	}
	p.m.procs = slices.DeleteFunc(p.m.procs, func(o *memFS) bool { return o == p })
}

// begin starts an operation; m.mu is held. It may be the last one.
func (p *memFS) begin(op memOp) error {
	m := p.m
	if p.ended {
		return errKilled
	}
	if m.fuse > 0 && (m.victim == nil || m.victim == p) {
		if m.fuse--; m.fuse == 0 {
			if op.kind == "write" && m.rng.IntN(2) == 0 {
				op.file.write(op.data[:m.rng.IntN(len(op.data))], op.off)
			}
			if m.victim != nil {
				p.end()
			} else {
				m.off = true
				for _, p := range slices.Clone(m.procs) {
					p.end()
				}
			}
			return errKilled
		}
	}
	if m.fault != nil {
		if err := m.fault(op); err != nil {
			m.faults++
			return &os.PathError{Op: op.kind, Path: op.name, Err: injected{err}}
		}
	}
	return nil
}

func (m *machine) done(op memOp) {
	if m.seen != nil {
		m.seen(op)
	}
}

// tell reports a change to the watches of its directory.
func (m *machine) tell(name string) {
	for _, w := range m.watches {
		if path.Dir(name) == w.dir {
			w.names[path.Base(name)] = true
			select {
			case w.more <- struct{}{}:
			default:
			}
		}
	}
}

func fail(op, name string, err error) error { return &os.PathError{Op: op, Path: name, Err: err} }

// dir finds a directory; m.mu is held.
func (m *machine) dir(name string) (*directory, error) {
	d := m.root
	for part := range strings.SplitSeq(strings.Trim(path.Clean(name), "/"), "/") {
		if part == "" || part == "." {
			continue
		}
		next, ok := d.live[part].(*directory)
		if !ok {
			return nil, fail("open", name, syscall.ENOENT)
		}
		d = next
	}
	return d, nil
}

func (p *memFS) MkdirAll(name string, _ os.FileMode) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	d := p.m.root
	for part := range strings.SplitSeq(strings.Trim(path.Clean(name), "/"), "/") {
		next, ok := d.live[part].(*directory)
		if !ok {
			op := memOp{kind: "mkdir", name: name}
			if err := p.begin(op); err != nil {
				return err
			}
			next = newDirectory()
			d.change(dirChange{part: next})
			p.m.done(op)
		}
		d = next
	}
	return nil
}

func (p *memFS) Open(name string, flag int, _ os.FileMode) (File, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	d, err := p.m.dir(path.Dir(name))
	if err != nil {
		return nil, err
	}
	f, ok := d.live[path.Base(name)].(*inode)
	switch {
	case ok && flag&os.O_EXCL != 0:
		return nil, fail("open", name, syscall.EEXIST)
	case !ok && flag&os.O_CREATE == 0:
		return nil, fail("open", name, syscall.ENOENT)
	}
	kind := "open"
	if !ok {
		kind = "create"
	}
	op := memOp{kind: kind, name: name}
	if err := p.begin(op); err != nil {
		return nil, err
	}
	if !ok {
		f = newInode(name)
		d.change(dirChange{path.Base(name): f})
	} else if flag&os.O_TRUNC != 0 && f.size > 0 {
		f.truncate(0)
		op.kind = "truncate"
	}
	if op.kind != "open" {
		p.m.done(op)
	}
	h := &memFile{p: p, f: f, writable: flag&(os.O_RDWR|os.O_WRONLY) != 0}
	p.files[h] = true
	return h, nil
}

func (p *memFS) Rename(from, to string) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	d, err := p.m.dir(path.Dir(from))
	if err != nil {
		return err
	}
	f, ok := d.live[path.Base(from)].(*inode)
	if !ok || path.Dir(from) != path.Dir(to) {
		return fail("rename", from, syscall.ENOENT)
	}
	op := memOp{kind: "rename", name: to, file: f}
	if err := p.begin(op); err != nil {
		return err
	}
	d.change(dirChange{path.Base(from): nil, path.Base(to): f})
	f.name = to
	p.m.done(op)
	p.m.tell(to)
	return nil
}

func (p *memFS) Remove(name string) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	d, err := p.m.dir(path.Dir(name))
	if err != nil {
		return err
	}
	f, ok := d.live[path.Base(name)].(*inode)
	if !ok {
		return fail("remove", name, syscall.ENOENT)
	}
	op := memOp{kind: "remove", name: name, file: f}
	if err := p.begin(op); err != nil {
		return err
	}
	d.change(dirChange{path.Base(name): nil})
	p.m.done(op)
	return nil
}

func (p *memFS) List(dir string) ([]string, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.ended {
		return nil, errKilled
	}
	d, err := p.m.dir(dir)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(d.live)), nil
}

func (p *memFS) SyncDir(dir string) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	d, err := p.m.dir(dir)
	if err != nil {
		return err
	}
	op := memOp{kind: "syncdir", name: dir}
	if err := p.begin(op); err != nil {
		return err
	}
	d.sync()
	p.m.done(op)
	return nil
}

func (p *memFS) Free(string) (int64, error) { return 1 << 40, nil }

// memFile is an open file.
type memFile struct {
	p        *memFS
	f        *inode
	writable bool
	wrote    bool
	closed   bool
}

// do runs one operation that changes the file.
func (h *memFile) do(op memOp, change func()) error {
	m := h.p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	op.file, op.name = h.f, h.f.name
	if h.closed && !h.p.ended {
		return fail(op.kind, op.name, os.ErrClosed)
	}
	err := h.p.begin(op)
	switch {
	case err == nil:
		change()
		m.done(op)
		if op.kind == "write" || op.kind == "truncate" {
			h.wrote = true
			m.tell(op.name)
		}
	case op.kind == "write" && errors.Is(err, syscall.ENOSPC):
		h.f.write(op.data[:len(op.data)/2], op.off) // a short write
	case op.kind == "sync" && isInjected(err):
		h.f.syncFails(m.rng)
	}
	return err
}

func (h *memFile) WriteAt(p []byte, off int64) (int, error) {
	if !h.writable {
		return 0, fail("write", h.f.name, syscall.EBADF)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := h.do(memOp{kind: "write", off: off, data: p}, func() { h.f.write(p, off) }); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (h *memFile) Truncate(size int64) error {
	return h.do(memOp{kind: "truncate", off: size}, func() { h.f.truncate(size) })
}

func (h *memFile) Allocate(off, n int64) error {
	return h.do(memOp{kind: "allocate", off: off, data: nil}, func() { h.f.allocate(off, n) })
}

func (h *memFile) Punch(off, n int64) error {
	if h.p.m.noHoles {
		return fail("punch", h.f.name, errors.ErrUnsupported)
	}
	return h.do(memOp{kind: "punch", off: off, data: make([]byte, n)}, func() { h.f.punch(off, n) })
}

func (h *memFile) Sync() error {
	m := h.p.m
	m.mu.Lock()
	gate := m.gate
	if gate != nil && strings.Contains(h.f.name, "/"+segmentsDir+"/") {
		m.gate = nil
	} else {
		gate = nil
	}
	m.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return h.do(memOp{kind: "sync"}, h.f.sync)
}

func (h *memFile) ReadAt(p []byte, off int64) (int, error) {
	m := h.p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case h.p.ended:
		return 0, errKilled
	case h.closed:
		return 0, fail("read", h.f.name, os.ErrClosed)
	}
	if m.fault != nil {
		if err := m.fault(memOp{kind: "read", name: h.f.name}); err != nil {
			m.faults++
			return 0, fail("read", h.f.name, injected{err})
		}
	}
	n := h.f.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memFile) Size() (int64, error) {
	h.p.m.mu.Lock()
	defer h.p.m.mu.Unlock()
	if h.p.ended {
		return 0, errKilled
	}
	return h.f.size, nil
}

func (h *memFile) Lock() error {
	for {
		ok, err := h.TryLock()
		if ok || err != nil {
			return err
		}
		h.p.m.mu.Lock()
		free := h.f.free
		taken := h.f.holder != nil
		h.p.m.mu.Unlock()
		if !taken {
			continue
		}
		select {
		case <-free:
		case <-h.p.dead:
		}
	}
}

func (h *memFile) TryLock() (bool, error) {
	h.p.m.mu.Lock()
	defer h.p.m.mu.Unlock()
	if h.p.ended {
		return false, errKilled
	}
	if h.f.holder == nil {
		h.f.holder, h.f.free = h, make(chan struct{})
		h.p.m.done(memOp{kind: "lock", name: h.f.name})
	}
	return h.f.holder == h, nil
}

func (h *memFile) Close() error {
	m := h.p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case h.p.ended:
		return errKilled
	case h.closed:
		return fail("close", h.f.name, os.ErrClosed)
	}
	h.drop()
	return nil
}

// drop closes the file and frees its lock.
func (h *memFile) drop() {
	h.closed = true
	delete(h.p.files, h)
	if h.f.holder == h {
		h.f.holder = nil
		close(h.f.free)
		h.p.m.done(memOp{kind: "unlock", name: h.f.name})
	}
	if h.writable {
		h.p.m.tell(h.f.name)
	}
}

// memWatch is a Watch.
type memWatch struct {
	p     *memFS
	dir   string
	names map[string]bool
	more  chan struct{} // capacity 1
}

func (p *memFS) Watch(dir string) (Watch, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.ended {
		return nil, errKilled
	}
	w := &memWatch{p: p, dir: path.Clean(dir), names: make(map[string]bool), more: make(chan struct{}, 1)}
	p.m.watches = append(p.m.watches, w)
	return w, nil
}

func (w *memWatch) Wait(ctx context.Context) ([]string, bool, error) {
	select {
	case <-w.more:
	case <-w.p.dead:
		return nil, false, errKilled
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	w.p.m.mu.Lock()
	defer w.p.m.mu.Unlock()
	names := slices.Sorted(maps.Keys(w.names))
	clear(w.names)
	return names, false, nil
}

func (w *memWatch) Close() error {
	m := w.p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watches = slices.DeleteFunc(m.watches, func(o *memWatch) bool { return o == w })
	return nil
}

// String names the operation as golden traces show it: what, which file, and
// which part of it.
func (op memOp) String() string {
	name := strings.TrimPrefix(op.name, "/spool/")
	if dir, file := path.Split(name); dir == blobsDir+"/" && strings.HasSuffix(file, tmpSuffix) {
		name = dir + "NEW" + tmpSuffix
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", op.kind, name, op.part()))
}

// part names what is written.
func (op memOp) part() string {
	if op.kind != "write" {
		return ""
	}
	dir := path.Base(path.Dir(op.name))
	starts := func(magic string) bool { return strings.HasPrefix(string(op.data), magic) }
	switch {
	case starts(segmentMagic), starts(journalMagic), starts(checkpointMagic):
		return "header"
	case starts(recordMagic):
		return "record"
	case starts(footerMagic):
		return "footer"
	case dir == segmentsDir && op.off == watermarkAt:
		return "watermark"
	case dir == segmentsDir && op.off == sealAt:
		return "seal"
	case dir == segmentsDir && op.off >= verdictsAt && op.off < recordsAt:
		return fmt.Sprintf("verdict %X", op.data)
	case starts(frameMagic):
		return "frame"
	case dir == journalDir:
		return "zeros"
	}
	return ""
}
