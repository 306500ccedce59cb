package spool

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// What a power loss leaves, in the model of these tests. It is as hostile as
// POSIX and the usual file systems (ext4, XFS) allow, and sometimes a bit more.
//
// Data. A file is made of pages of 4 KiB, of sectors of 512 octets. A sync that
// succeeded makes all of it durable. What was written since may be on the disk
// or not, sector by sector and in any order; a sector that was written several
// times may hold any of the versions, as the kernel writes pages back when it
// likes. A sector itself is never torn.
//
// Metadata of a file: its size, truncations and holes. They become durable in
// the order in which they were made, as in a file system with a journal, but
// after a crash any first part of those since the last sync may be there. Data
// beyond the size is gone; what was allocated or skipped reads as zeros.
//
// Directories. Only SyncDir makes entries durable; to sync a file does not sync
// its name. A rename is atomic. Of the changes since the last SyncDir any first
// part may be there or, in some crashes, any part at all, whatever the order;
// directories know nothing of each other.
//
// A failed sync. As on Linux the dirty pages are called clean: some sectors
// reached the disk, the others never will unless their page is written again,
// reads go on to give the new data, and the next sync succeeds.
//
// The end of a process takes nothing but its locks. A write that was just going
// on may be there in part.

const (
	pageSize   = 4096
	sectorSize = 512
)

// inode is a file, with or without a name.
type inode struct {
	name     string // the last one, for traces
	pages    map[int64]*page
	size     int64
	diskSize int64
	sizes    []int64 // after each change of metadata since the last sync
	dropped  bool    // a failed sync has called pages clean
	harmed   bool    // that, also before the last power loss
	holder   *memFile
	free     chan struct{} // closed when holder lets go
}

// page is one page. Its arrays are never changed, only replaced; nil is zeros.
type page struct {
	live, disk *[pageSize]byte
	versions   []version // since the last sync
}

// version is what a page could hold.
type version struct {
	data *[pageSize]byte
	meta int  // how many changes of metadata came before it, with its own
	wipe bool // by metadata: a truncation or a hole
}

func newInode(name string) *inode { return &inode{name: name, pages: make(map[int64]*page)} }

func (f *inode) read(p []byte, off int64) int {
	n := int(max(0, min(int64(len(p)), f.size-off)))
	for done := 0; done < n; {
		at := off + int64(done)
		part := min(n-done, pageSize-int(at%pageSize))
		if pg := f.pages[at/pageSize]; pg != nil && pg.live != nil {
			copy(p[done:done+part], pg.live[at%pageSize:])
		} else {
			clear(p[done : done+part])
		}
		done += part
	}
	return n
}

// resize notes a change of metadata.
func (f *inode) resize(size int64) {
	f.size = size
	f.sizes = append(f.sizes, size)
}

func (f *inode) write(p []byte, off int64) {
	if end := off + int64(len(p)); end > f.size {
		f.resize(end)
	}
	for len(p) > 0 {
		n := min(len(p), pageSize-int(off%pageSize))
		f.change(off/pageSize, func(b *[pageSize]byte) { copy(b[off%pageSize:], p[:n]) })
		p, off = p[n:], off+int64(n)
	}
}

// change makes a new version of a page.
func (f *inode) change(number int64, edit func(*[pageSize]byte)) {
	pg := f.pages[number]
	if pg == nil {
		pg = &page{}
		f.pages[number] = pg
	}
	b := new([pageSize]byte)
	if pg.live != nil {
		*b = *pg.live
	}
	edit(b)
	pg.live = b
	if len(pg.versions) > 8 && !pg.versions[0].wipe {
		pg.versions = slices.Delete(pg.versions, 0, 1)
	}
	pg.versions = append(pg.versions, version{data: b, meta: len(f.sizes)})
}

func (f *inode) truncate(size int64) {
	grown := size >= f.size
	old := f.size
	f.dropped = f.dropped && size > 0
	f.resize(size)
	if !grown {
		f.wipe(size, old)
	}
}

func (f *inode) allocate(off, n int64) {
	if off+n > f.size {
		f.resize(off + n)
	}
}

func (f *inode) punch(off, n int64) {
	f.resize(f.size)
	f.wipe(off, min(off+n, f.size))
}

// wipe makes zeros: whole pages go with the metadata, parts of pages are data.
func (f *inode) wipe(from, to int64) {
	for number, pg := range f.pages {
		start := number * pageSize
		a, b := max(from-start, 0), min(to-start, pageSize)
		switch {
		case a >= b || pg.live == nil && pg.disk == nil && len(pg.versions) == 0:
		case a == 0 && (b == pageSize || to >= f.size):
			pg.live = nil
			pg.versions = append(pg.versions, version{meta: len(f.sizes), wipe: true})
		default:
			f.change(number, func(p *[pageSize]byte) { clear(p[a:b]) })
		}
	}
}

func (f *inode) sync() {
	for _, pg := range f.pages {
		if len(pg.versions) > 0 {
			pg.disk, pg.versions = pg.live, nil
		}
	}
	f.diskSize, f.sizes = f.size, nil
}

// syncFails drops dirty data.
func (f *inode) syncFails(rng *rand.Rand) {
	how := rng.IntN(4)
	for _, n := range slices.Sorted(maps.Keys(f.pages)) {
		pg := f.pages[n]
		if len(pg.versions) == 0 {
			continue
		}
		f.dropped, f.harmed = true, true
		pg.disk = pg.survivor(rng, how, 0)
		pg.versions = slices.DeleteFunc(pg.versions, func(v version) bool { return !v.wipe })
	}
}

// survivor puts a page together as a crash may leave it, when the first meta
// changes of the file's metadata are durable.
func (pg *page) survivor(rng *rand.Rand, how, meta int) *[pageSize]byte {
	choice := []*[pageSize]byte{pg.disk}
	for _, v := range pg.versions {
		if v.wipe && v.meta > meta {
			break // what came after it has no place on the disk yet
		}
		if v.wipe {
			choice = choice[:0]
		}
		choice = append(choice, v.data)
	}
	last := len(choice) - 1
	switch {
	case last == 0 || how == 0:
		return choice[0]
	case how == 1:
		return choice[last]
	case how == 2:
		return choice[rng.IntN(last+1)]
	}
	b := new([pageSize]byte)
	for at := 0; at < pageSize; at += sectorSize {
		if from := choice[rng.IntN(last+1)]; from != nil {
			copy(b[at:at+sectorSize], from[at:])
		}
	}
	return b
}

// crashed returns the file as a power loss leaves it.
func (f *inode) crashed(rng *rand.Rand) *inode {
	c := newInode(f.name)
	c.harmed = f.harmed
	meta := 0
	if len(f.sizes) > 0 {
		meta = []int{0, len(f.sizes), rng.IntN(len(f.sizes) + 1)}[rng.IntN(3)]
	}
	c.size = f.diskSize
	if meta > 0 {
		c.size = f.sizes[meta-1]
	}
	how := rng.IntN(4) // nothing, all, by page, by sector
	for _, n := range slices.Sorted(maps.Keys(f.pages)) {
		b := f.pages[n].survivor(rng, how, meta)
		left := c.size - n*pageSize
		if b == nil || left <= 0 {
			continue
		}
		if left < pageSize {
			cut := *b
			clear(cut[left:])
			b = &cut
		}
		c.pages[n] = &page{live: b, disk: b}
	}
	c.diskSize = c.size
	return c
}

// directory holds entries: *inode or *directory.
type directory struct {
	live, disk map[string]any
	pending    []dirChange // since the last SyncDir
}

// dirChange is one atomic change: entries that come, or with nil go.
type dirChange map[string]any

func newDirectory() *directory {
	return &directory{live: make(map[string]any), disk: make(map[string]any)}
}

func (c dirChange) apply(entries map[string]any) {
	for name, node := range c {
		if node == nil {
			delete(entries, name)
		} else {
			entries[name] = node
		}
	}
}

func (d *directory) change(c dirChange) {
	c.apply(d.live)
	d.pending = append(d.pending, c)
}

func (d *directory) sync() {
	d.disk, d.pending = maps.Clone(d.live), nil
}

// crashed returns the directory, and all in it, as a power loss leaves them.
func (d *directory) crashed(rng *rand.Rand, anyOrder bool, files map[*inode]*inode) *directory {
	entries := maps.Clone(d.disk)
	first := 0
	if n := len(d.pending); n > 0 {
		first = []int{0, n, rng.IntN(n + 1)}[rng.IntN(3)]
	}
	for i, c := range d.pending {
		if anyOrder && rng.IntN(2) == 0 || !anyOrder && i < first {
			c.apply(entries)
		}
	}
	c := newDirectory()
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		switch node := entries[name].(type) {
		case *directory:
			c.live[name] = node.crashed(rng, anyOrder, files)
		case *inode:
			if files[node] == nil {
				files[node] = node.crashed(rng)
			}
			c.live[name] = files[node]
		}
	}
	c.disk = maps.Clone(c.live)
	return c
}
