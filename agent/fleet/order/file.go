package order

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"github.com/millrace/millrace/agent/durable"
)

// The file is a log of lines. A line is synced before the order on it is sent to anybody
// or the caller is told that it stands: what another node has heard of this one, this one has, too,
// after a crash. A crash may leave a part of the last line, of which nobody has heard. The
// signature of an order is its checksum. When most lines are of no more use the file is replaced
// by one of those that are (durable.Replace: synced before it takes the name).
const (
	header    = "millrace orders 1\n"
	orderMark = "o "
	doneMark  = "d " // of an order that was done here: its identity follows
	// spare is how many lines of no use are no reason to write the file anew.
	spare = 200
)

func orderLine(line []byte) []byte { return append([]byte(orderMark), line...) }

// Disk is what keeps the lines.
type Disk interface {
	Read() ([]byte, error) // nothing if there is no file yet
	Append([]byte) error   // durable when it returns nil; with an error any part of it may be there
	Replace([]byte) error  // all or nothing, durable when it returns nil
}

// file is the Disk of an agent.
type file struct {
	path string
	out  *os.File // nil: not open
}

func (f *file) Read() ([]byte, error) {
	b, err := os.ReadFile(f.path)
	if durable.Missing(err) {
		return nil, nil
	}
	return b, err
}

func (f *file) Append(b []byte) error {
	if f.out == nil {
		out, err := os.OpenFile(f.path, os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		f.out = out
	}
	if _, err := f.out.Write(b); err != nil {
		return err
	}
	return f.out.Sync()
}

func (f *file) Replace(b []byte) error {
	if f.out != nil {
		f.out.Close() // what it had is in b
		f.out = nil
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	return durable.Replace(f.path, b)
}

var errHeader = errors.New("this is no file of orders of this version")

// load reads the file, and writes it anew if it was not as it should be.
func (l *Log) load() error {
	b, err := l.file.Read()
	if err != nil {
		return err
	}
	if len(b) > 0 && !bytes.HasPrefix(b, []byte(header)) {
		if !bytes.HasPrefix([]byte(header), b) { // else it was cut short before there was an order
			return errHeader
		}
		b = nil
	}
	now := l.o.Now()
	foreign := 0
	var done []ID
	for line := range bytes.Lines(bytes.TrimPrefix(b, []byte(header))) {
		text, whole := bytes.CutSuffix(line, []byte("\n"))
		switch {
		case !whole: // cut short by a crash: nobody has heard of it
		case bytes.HasPrefix(text, []byte(orderMark)):
			k, err := l.read(text[len(orderMark):], now)
			switch {
			case errors.Is(err, ErrForeign):
				foreign++
			case err != nil:
				l.damaged++
			case k != nil:
				l.put(k)
			}
		case bytes.HasPrefix(text, []byte(doneMark)):
			if id, err := ParseID(string(text[len(doneMark):])); err == nil {
				done = append(done, id)
			} else {
				l.damaged++
			}
		default:
			l.damaged++
		}
	}
	for _, id := range done {
		if l.orders[id] != nil {
			l.done[id] = true
		}
	}
	if l.damaged > 0 {
		l.o.Log.Error("fleet: damaged lines in the file of orders are left out; pauses of before stay, the other nodes send the rest again", "file", l.o.Path, "lines", l.damaged)
	}
	if foreign > 0 {
		l.o.Log.Warn("fleet: orders of another fleet are left out", "file", l.o.Path, "orders", foreign)
	}
	l.bound()
	return l.compact()
}

// write appends lines to the file, or replaces it. The caller holds mu.
func (l *Log) write(text []byte, lines int) (err error) {
	if l.file == nil {
		return nil
	}
	l.lines += lines
	if l.behind || l.lines > 2*(len(l.orders)+len(l.done))+spare {
		return l.compact()
	}
	if err = l.file.Append(text); err != nil {
		l.behind = true // a part of it may be there: the next write replaces all
	}
	return l.told(err)
}

func (l *Log) compact() error {
	b := []byte(header)
	n := 0
	for _, k := range l.orders {
		b = append(append(append(b, orderMark...), k.line...), '\n')
		n++
	}
	for id := range l.done {
		b = append(append(append(b, doneMark...), id.String()...), '\n')
		n++
	}
	err := l.file.Replace(b)
	if l.behind = err != nil; err == nil {
		l.lines = n
	}
	return l.told(err)
}

func (l *Log) told(err error) error {
	if err != nil && l.failed == nil {
		l.o.Log.Error("fleet: orders cannot be written; they are in force, and it is tried again", "file", l.o.Path, "err", err)
	}
	l.failed = err
	if err != nil {
		return errors.Join(errors.New("this is in force, but will not outlive the agent while it cannot be written"), err)
	}
	return nil
}

// expire drops what is over, and writes what could not be written before. The caller holds mu.
func (l *Log) expire() {
	now := l.o.Now()
	for _, k := range l.orders {
		if k.over(now) && (len(k.Lifts) == 0 || k.Kind.once()) {
			l.drop(k)
		}
	}
	if l.behind {
		_ = l.compact() // told, and tried again with the next report
	}
}

// Expire is what Report does besides, for a node that reports to nobody.
func (l *Log) Expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
}
