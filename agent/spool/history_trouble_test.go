package spool

import (
	"math/rand/v2"
	"slices"
	"syscall"
	"time"
)

// bury removes dead processes and, after a power loss, starts the machine again.
func (w *world) bury() {
	if w.m.off {
		w.events["power lost"]++
		w.m = w.m.crash(w.m.rng)
		w.losePower()
	}
	w.writers = slices.DeleteFunc(w.writers, func(p *writerModel) bool {
		if p.fs.killed() {
			w.events["writer killed"]++
			p.w.Close()
			w.orphan(p)
			return true
		}
		return false
	})
	if w.agent != nil && w.agent.fs.killed() {
		w.events["agent killed"]++
		w.agent.s.Close()
		w.agent = nil
		for _, m := range w.letters {
			// The mark of the one in its hands may not have been written.
			m.takenLoose = m.takenLoose || m.session == w.session
		}
	}
}

// harmed reports whether a sync of the segment ever failed.
func (w *world) harmed(segment uint32) bool {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	d, err := w.m.dir(w.dir + "/" + segmentsDir)
	if err != nil {
		return false
	}
	f, ok := d.live[segmentName(segment)].(*inode)
	return ok && f.harmed
}

// setFuse ends a process, or all power, in the middle of something.
func (w *world) setFuse() {
	w.m.fuse, w.m.victim = 1+w.rng.IntN(1<<w.rng.IntN(7)), nil
	procs := []*memFS{nil}
	for _, p := range w.writers {
		procs = append(procs, p.fs)
	}
	if w.agent != nil {
		procs = append(procs, w.agent.fs)
	}
	w.m.victim = procs[w.rng.IntN(len(procs))]
}

// oneFault makes one operation of some kind fail, once.
func (w *world) oneFault() {
	kinds := []string{"create", "write", "write", "write", "truncate", "allocate", "punch", "sync", "sync", "sync", "syncdir", "rename", "remove", "read"}
	kind := kinds[w.rng.IntN(len(kinds))]
	left := w.rng.IntN(6)
	code := []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS}[w.rng.IntN(3)]
	w.fragile = w.fragile || kind == "sync"
	w.m.fault = func(op memOp) error {
		if op.kind == kind {
			if left--; left == -1 {
				return code
			}
		}
		return nil
	}
}

// trouble makes the disk refuse things until it is calm again.
func (w *world) trouble() {
	rng := rand.New(rand.NewPCG(w.current.seed, 3))
	rate := 2 + rng.IntN(20)
	switch rng.IntN(4) {
	case 0: // full
		w.m.fault = func(op memOp) error {
			if op.kind == "allocate" || op.kind == "create" || op.kind == "write" && op.off+int64(len(op.data)) > op.file.size {
				return syscall.ENOSPC
			}
			return nil
		}
	case 1: // read-only
		w.fragile = true
		w.m.fault = func(op memOp) error {
			if op.kind == "read" || op.kind == "open" {
				return nil
			}
			return syscall.EROFS
		}
	case 2: // reads fail
		w.m.fault = func(op memOp) error {
			if op.kind == "read" && rng.IntN(rate) == 0 {
				return syscall.EIO
			}
			return nil
		}
	default:
		w.fragile = true
		w.m.fault = func(op memOp) error {
			if op.kind != "open" && op.kind != "read" && rng.IntN(rate) == 0 {
				return syscall.EIO
			}
			return nil
		}
	}
}

// calm ends trouble. The agent must get over it by itself.
func (w *world) calm() {
	if w.m.fault == nil {
		return
	}
	w.m.fault = nil
	if w.agent == nil {
		return
	}
	w.upkeep()
	w.upkeep()
	if w.agent.s.failed != nil && !w.agent.fs.killed() {
		w.violate("no event can be recorded though the disk is well: %v", w.agent.s.failed)
	}
}

// examine looks for all that must be there.
func (w *world) examine() {
	w.calm()
	w.bury()
	if w.agent != nil && w.rng.IntN(2) == 0 {
		w.closeAgent()
		w.bury()
	}
	clean := w.agent == nil
	if clean {
		clean = w.openAgent()
	}
	if w.agent != nil && w.follow(6*time.Second) && clean && !w.agent.fs.killed() {
		w.complete()
		w.sound()
	}
}

// sound checks that nothing is called damaged. Crashes tear, but that is not
// damage: only what was acknowledged can be.
func (w *world) sound() {
	if d := w.agent.s.Damaged(); len(d) > 0 && !w.fragile {
		w.violate("nobody harmed the disk, but there is damage: %+v", d)
	}
}

// finale crashes once more, looks for everything, delivers it, and sees whether
// all space comes back.
func (w *world) finale() {
	w.current = action{"finale", uint64(len(w.letters))}
	w.rng = rand.New(rand.NewPCG(w.current.seed, 1))
	w.m.rng = rand.New(rand.NewPCG(w.current.seed, 2))
	w.m.fault, w.m.fuse = nil, 0
	switch w.rng.IntN(3) {
	case 0:
		w.m.powerOff()
	case 1:
		for _, p := range w.writers {
			p.fs.kill()
		}
		if w.agent != nil {
			w.agent.fs.kill()
		}
	}
	w.bury()
	for _, p := range slices.Clone(w.writers) {
		w.closeWriter(p)
	}
	w.closeAgent()
	if w.err != nil || !w.openAgent() || !w.follow(6*time.Second) {
		return
	}
	w.complete()
	w.sound()
	for _, m := range w.held() {
		for i := range m.states {
			if m.states[i].now().Status.Final() {
				continue
			}
			e := Event{ID: m.id, Recipient: uint32(i), State: State{Status: Delivered}}
			if w.check(w.agent.fs, "Record", w.agent.s.Record(e)) {
				m.states[i].recorded = append(m.states[i].recorded, eventModel{State: e.State, session: w.session, file: w.journal()})
			}
		}
	}
	w.upkeep()
	w.closeAgent()
	if w.err != nil || !w.openAgent() {
		return
	}
	w.sound()
	if held := w.held(); len(held) > 0 {
		w.violate("%s came back", held[0])
	}
	w.upkeep()
	for _, dir := range []string{segmentsDir, blobsDir} {
		names, err := w.agent.fs.List(w.dir + "/" + dir)
		if err != nil || len(names) > 0 && !w.fragile {
			w.violate("%s not reclaimed: %v, %v", dir, names, err)
		}
	}
	w.check(w.agent.fs, "checkpoint", w.agent.s.rotate())
	names, err := w.agent.fs.List(w.dir + "/" + journalDir)
	if err != nil || len(names) != 2 {
		w.violate("journals not reclaimed: %v, %v", names, err)
	}
	w.closeAgent()
}

// abandon ends what still runs.
func (w *world) abandon() {
	w.m.powerOff()
	for _, p := range w.writers {
		p.w.Close()
	}
	if w.agent != nil {
		w.agent.s.Close()
	}
}
