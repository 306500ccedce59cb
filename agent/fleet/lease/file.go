package lease

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"strings"

	"github.com/millrace/millrace/agent/durable"
)

// file is what a member persists.
type file struct {
	Fleet, Node, ID string
	Active          bool
	Table           Table
	Addresses       map[string]string `json:",omitempty"` // where other members answer, host:port by node
}

// Open reads the member's state from path. Without that file, or where it is of another
// fleet or node or cannot be understood, the node is a new one, which has no floors: 0, or
// limit/Nodes. The file must not be brought back from a backup: remove it instead.
func Open(path string, o Options) (*Member, error) {
	if o.Fleet == "" || o.Node == "" || strings.ContainsAny(o.Node, ", ") {
		return nil, fmt.Errorf("a member needs the names of its fleet and node: %q, %q", o.Fleet, o.Node)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the state of this member of the fleet: %w", err)
	}
	return begin(path, text, o), nil
}

// begin is a member with the state file's content, which may be nothing.
func begin(path string, text []byte, o Options) *Member {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Member{o: o, path: path, replace: durable.Replace, id: rand.Text(), grants: make(map[subject]*grant)}
	if o.Nodes > 0 {
		m.table, m.active = Table{Divisor: o.Nodes}, true
	}
	if len(text) == 0 {
		return m
	}
	var f file
	switch err := json.Unmarshal(text, &f); {
	case err != nil:
		o.Log.Warn("the state of this member of the fleet cannot be read: it counts as a new one", "file", path, "err", err)
	case f.Fleet == "" && f.Node == "": // Leave wrote it
	case f.Fleet != o.Fleet || f.Node != o.Node:
		o.Log.Warn("the state of this member of the fleet is of another one: it counts as a new one", "file", path, "fleet", f.Fleet, "node", f.Node)
	case f.ID != "" && f.Table.Version != "":
		m.id, m.table, m.active, m.places = f.ID, f.Table, f.Active, f.Addresses
		m.table.Divisor = max(m.table.Divisor, o.Nodes)
		m.doubts, m.doubtEnd = m.active && o.Nodes == 0, o.Boot()+Doubt
	}
	return m
}

// HasPart says whether the state file at path is that of a member with floors, which it did not
// leave. One that is not there or cannot be read is not.
func HasPart(path string) bool {
	text, err := os.ReadFile(path)
	var f file
	return err == nil && json.Unmarshal(text, &f) == nil && f.Active && f.Table.Version != ""
}

func (m *Member) file() file {
	return file{m.o.Fleet, m.o.Node, m.id, m.active, m.table, m.places}
}

// persist replaces the state file. Where that fails a crash may still bring up the new one, and
// a call would claim only what the old one allows: there is none until one of them is surely there.
func (m *Member) persist(f file) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	err = m.replace(m.path, text)
	m.unsure = err != nil
	return err
}

// Keep has the state file say where other members answer, as at gives it (host:port; "": as
// before), so that they are found after a restart without a store. Trouble with the file shows when
// it is next written.
func (m *Member) Keep(at func(node string) string) {
	m.turn.Lock()
	defer m.turn.Unlock()
	m.mu.Lock()
	places := make(map[string]string)
	for _, node := range m.table.Members {
		if a := cmp.Or(at(node), m.places[node]); a != "" {
			places[node] = a
		}
	}
	same := m.leaving || m.table.Version == "" || maps.Equal(places, m.places)
	if !same {
		m.places = places
	}
	f := m.file()
	m.mu.Unlock()
	if !same {
		_ = m.persist(f) // Call tries it again
	}
}

// Address is where another member answers, as Keep heard; "": it is not known.
func (m *Member) Address(node string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.places[node]
}
