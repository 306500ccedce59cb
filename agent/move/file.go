package move

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/spool"
)

// version is that of files and requests. Neither is read if it is greater.
const version = 1

// list is what a file of the directory holds: the open batch of a transfer, here and there.
type list struct {
	Version  int       `json:"v"`
	Transfer string    `json:"transfer"`
	Node     string    `json:"node"` // the other one
	In       bool      `json:"in,omitempty"`
	Who      string    `json:"who,omitempty"` // asked for it
	Began    time.Time `json:"began"`
	Number   int       `json:"number"` // of the batch, from 1
	Since    time.Time `json:"since"`  // the batch is open
	Messages []message `json:"messages"`
	// Accepted: an admin of the target did not wait for the origin.
	Accepted bool `json:"accepted,omitempty"`
}

// message is one of a batch.
type message struct {
	ID string `json:"id"` // at the origin
	// Back: it stays at the origin, which sends it. Written before it may be sent.
	Back bool   `json:"back,omitempty"`
	As   string `json:"as,omitempty"` // at the target, once accepted
	// Recipients are in the order of the envelope that was sent.
	Recipients []recipient `json:"recipients"`
}

// recipient is one recipient of a message.
type recipient struct {
	Ordinal  uint32    `json:"ordinal"` // at the origin
	Handback bool      `json:"handback,omitempty"`
	Stuck    bool      `json:"stuck,omitempty"`
	Held     bool      `json:"held,omitempty"`
	Tries    uint16    `json:"tries,omitempty"`
	Class    uint8     `json:"class,omitempty"`
	Due      time.Time `json:"due,omitzero"`
	Reply    []byte    `json:"reply,omitempty"` // of a server: any octets
	From     string    `json:"from,omitempty"`
}

func recipientOf(ordinal uint32, st *spool.State) recipient {
	return recipient{ordinal, st.Handback, st.Stuck, st.Held, st.Tries, st.Class, st.Due, []byte(st.Reply), st.From}
}

func (r *recipient) state() spool.State {
	return spool.State{Handback: r.Handback, Stuck: r.Stuck, Held: r.Held, Tries: r.Tries, Class: r.Class, Due: r.Due, Reply: string(r.Reply), From: r.From}
}

// count is how many messages and recipients are not back.
func (l *list) count() (messages, recipients int) {
	for i := range l.Messages {
		if !l.Messages[i].Back {
			messages++
			recipients += len(l.Messages[i].Recipients)
		}
	}
	return messages, recipients
}

// words are names of nodes and transfers: they stand in names of files and in envelopes.
var words = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (l *list) name() string {
	if l.In {
		return "in-" + l.Node + "." + l.Transfer + ".json"
	}
	return "out-" + l.Transfer + ".json"
}

// write makes the list durable.
func (m *Mover) write(l *list) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(m.o.directory, l.name()), b)
}

// remove removes the list, durable on return.
func (m *Mover) remove(l *list) error {
	if err := os.Remove(filepath.Join(m.o.directory, l.name())); err != nil && !durable.Missing(err) {
		return err
	}
	d, err := os.Open(m.o.directory)
	if durable.Missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read reads all lists of an earlier agent. One that cannot be read is an error: what stands in
// it may be at another node, too.
func read(dir string) (all []list, err error) {
	entries, err := os.ReadDir(dir)
	if durable.Missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), durable.Suffix) {
			os.Remove(path) // a crash left it
			continue
		}
		b, err := os.ReadFile(path)
		var l list
		if err == nil {
			err = json.Unmarshal(b, &l)
		}
		switch {
		case err != nil:
		case l.Version > version:
			err = fmt.Errorf("written by a newer version (%d)", l.Version)
		case l.name() != e.Name() || !words.MatchString(l.Node) || !words.MatchString(l.Transfer):
			err = errors.New("it is no list of mail on its way to or from another node")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w; remedy: start the version that wrote it, or move the file away: then its mail may be sent by both nodes", path, err)
		}
		all = append(all, l)
	}
	return all, nil
}

// mark is Envelope.Moved: where a message was before, and in which batch it came.
type mark struct {
	node, transfer string
	number         int
	id             spool.ID
}

func (k mark) String() string { return fmt.Sprintf("%s/%s/%d/%s", k.node, k.transfer, k.number, k.id) }

// parseMark reads what String wrote.
func parseMark(s string) (k mark, ok bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return k, false
	}
	k.node, k.transfer = parts[0], parts[1]
	if _, err := fmt.Sscanf(parts[2], "%d", &k.number); err != nil {
		return k, false
	}
	var err error
	k.id, err = spool.ParseID(parts[3])
	return k, err == nil
}
