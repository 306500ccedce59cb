// Package marks keeps the keys by which the hosts of a fleet know each other's mail: the loop
// keys of their spools, which are behind the mark in the Received field of each copy (package
// trace).
//
// A Book serves this host's key to the others, asks them for theirs, and keeps those in the
// file "members" of the spool directory, beside this host's own: so the milter, which knows
// neither the fleet nor the state of the agent, finds them as it finds that (Watch). They are
// secrets: who has one can write marks of that host. So they are given to members alone, and
// the file is for its owner.
//
// A key is known for Keep after its host last named it: reports come back for as long as
// that, also after a host has left or has another spool. Without a fleet there is no file.
package marks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/trace"
)

const (
	// file is the name in the spool directory.
	file = "members"
	// Keep is how long a key is known after its host last named it; reports on older mail
	// count no more (package assess).
	Keep = 30 * 24 * time.Hour
	// most bounds the keys: a stranger's field costs a hash with each.
	most = 64
	// ofNode bounds the keys that one host may name at a time, keySize is the length of each,
	// in octets.
	ofNode  = 4
	keySize = 32
	// askEvery is how often a host is asked, askWithin how long that may take. One that does not
	// answer is asked again after lookEvery, and then after twice as long each time, up to
	// againAfter: most often the whole fleet has just been started.
	askEvery   = 10 * time.Minute
	askWithin  = 5 * time.Second
	againAfter = time.Minute
	// lookEvery is how often it is looked for hosts to ask, and by the milter at the file.
	lookEvery = 5 * time.Second
	// stale is how old the time in the file may be before it is written anew.
	stale = 24 * time.Hour
)

// Published is what a host tells the others.
type Published struct {
	Keys [][]byte `json:"keys"`
}

// kept is a key in the file.
type kept struct {
	Node string    `json:"node"`
	Key  []byte    `json:"key"`
	Seen time.Time `json:"seen"`
}

// Read returns the keys of the others in a spool directory, the latest first; none where
// there is no file.
func Read(spool string, now time.Time) ([]trace.Member, error) {
	list, err := load(spool, now)
	return members(list), err
}

func load(spool string, now time.Time) ([]kept, error) {
	path := filepath.Join(spool, file)
	b, err := os.ReadFile(path)
	if durable.Missing(err) {
		return nil, nil
	}
	var list []kept
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("keys of the fleet's marks: %s: %w; remedy: remove it, the agent asks the others again", path, err)
	}
	return prune(list, now), nil
}

// prune leaves out what is too old, or no key, or too much.
func prune(list []kept, now time.Time) []kept {
	list = slices.DeleteFunc(list, func(k kept) bool { return now.Sub(k.Seen) > Keep || len(k.Key) != keySize || k.Node == "" })
	slices.SortStableFunc(list, func(a, b kept) int {
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.Node, b.Node), bytes.Compare(a.Key, b.Key))
	})
	return list[:min(len(list), most)]
}

func members(list []kept) []trace.Member {
	var m []trace.Member
	for _, k := range list {
		m = append(m, trace.Member{Node: k.Node, Key: k.Key})
	}
	return m
}

// Watch calls use with the keys of a spool directory, if there are any, and again whenever
// the file has changed or a day has passed, until ctx ends.
func Watch(ctx context.Context, spool string, log *slog.Logger, use func([]trace.Member)) {
	var last os.FileInfo
	var read time.Time
	look := func(now time.Time) {
		info, err := os.Stat(filepath.Join(spool, file))
		if err != nil && last == nil {
			return
		}
		if err == nil && last != nil && os.SameFile(info, last) && info.ModTime().Equal(last.ModTime()) && now.Sub(read) < stale {
			return
		}
		if read, last = now, info; err != nil {
			last = nil // it is gone
		}
		list, err := Read(spool, now)
		if err != nil {
			log.Warn("mail of other hosts of the fleet is not known by its marks", "err", err)
			return
		}
		use(list)
	}
	look(time.Now())
	loop.Every(ctx, lookEvery, look)
}

// Options are what a Book works with. None may be missing.
type Options struct {
	Log   *slog.Logger
	Spool string // the spool directory
	Node  string // this one
	Own   []byte // its loop key
	// Nodes are the members that can be asked now, by name; this one may be among them.
	Nodes func() []string
	// Get asks a member: what its Handler answers.
	Get func(ctx context.Context, node string) (Published, error)
}

// Book has the keys of the other hosts. Its methods may be called by many goroutines.
type Book struct {
	o Options

	mu   sync.Mutex
	list []kept

	asked map[string]time.Time     // of Run alone: when each is to be asked next
	waits map[string]time.Duration // likewise: how long before that, of those that did not answer
	dirty bool                     // of Run alone: the file lacks what is known
}

// Open reads what is known. A file that cannot be read is told of and begun anew: the others
// are asked for all that is in it.
func Open(o Options) *Book {
	b := &Book{o: o, asked: make(map[string]time.Time), waits: make(map[string]time.Duration)}
	var err error
	if b.list, err = load(o.Spool, time.Now()); err != nil {
		o.Log.Warn("mail of other hosts of the fleet is not known by its marks", "err", err)
	}
	return b
}

// Members are the keys of the others, the latest first.
func (b *Book) Members() []trace.Member {
	b.mu.Lock()
	defer b.mu.Unlock()
	return members(b.list)
}

// Handler tells a member this host's key.
func (b *Book) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(Published{[][]byte{b.o.Own}})
	})
}

// Run asks the others until ctx ends: one that is new at once, all every ten minutes.
func (b *Book) Run(ctx context.Context) {
	b.ask(ctx, time.Now())
	loop.Every(ctx, lookEvery, func(now time.Time) { b.ask(ctx, now) })
}

// ask asks all whose time has come, at the same time, and keeps what they said.
func (b *Book) ask(ctx context.Context, now time.Time) {
	type answer struct {
		node string
		keys [][]byte
		err  error
	}
	nodes := b.o.Nodes()
	due := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == b.o.Node || now.Before(b.asked[n]) })
	for n := range b.asked {
		if !slices.Contains(nodes, n) {
			delete(b.asked, n) // asked at once when it is back
			delete(b.waits, n)
		}
	}
	if len(due) == 0 {
		return
	}
	answers := make(chan answer, len(due))
	ctx, done := context.WithTimeout(ctx, askWithin)
	defer done()
	for _, n := range due {
		go func() {
			p, err := b.o.Get(ctx, n)
			answers <- answer{n, p.Keys, err}
		}()
	}
	for range due {
		x := <-answers
		if x.err != nil {
			wait := min(max(2*b.waits[x.node], lookEvery), againAfter)
			b.waits[x.node], b.asked[x.node] = wait, now.Add(wait)
			b.o.Log.Debug("a node does not say how it marks mail", "node", x.node, "err", x.err)
			continue
		}
		b.asked[x.node] = now.Add(askEvery)
		delete(b.waits, x.node)
		for _, k := range x.keys[:min(len(x.keys), ofNode)] {
			b.dirty = b.learn(x.node, k, now) || b.dirty
		}
	}
	if b.dirty {
		b.save(now)
	}
}

// learn notes a key, and says whether the file has to be written.
func (b *Book) learn(node string, key []byte, now time.Time) bool {
	if len(key) != keySize || bytes.Equal(key, b.o.Own) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.list {
		if k := &b.list[i]; k.Node == node && bytes.Equal(k.Key, key) {
			old := now.Sub(k.Seen) > stale
			if old {
				k.Seen = now
			}
			return old
		}
	}
	b.list = append(b.list, kept{node, bytes.Clone(key), now})
	b.o.Log.Info("marks of a node are known", "node", node)
	return true
}

// save replaces the file.
func (b *Book) save(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = prune(b.list, now)
	text, err := json.Marshal(b.list)
	if err == nil {
		err = durable.Replace(filepath.Join(b.o.Spool, file), append(text, '\n'))
	}
	if b.dirty = err != nil; b.dirty {
		b.o.Log.Error("the milter does not hear of the marks of other nodes", "err", err)
	}
}
