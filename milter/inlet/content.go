package inlet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/milter"
)

const (
	// inMemory is the size, in octets, up to which a message is held in memory. Clients of
	// default max_connections together can make us hold 25 MB.
	inMemory = 256 << 10
	// maxHead is the largest header that is judged; mail with a larger one is passed. Postfix
	// itself cuts at 102400 (header_size_limit).
	maxHead = inMemory
)

// content is a whole message, as its client sent it, dots undone. It is read before anything
// becomes of it, so that whoever takes it in the end gets all of it.
type content struct {
	dir string // of the file
	max int64  // octets; what is above is dropped

	mem  []byte
	file *os.File // the rest; nil: none
	size int64
	head int // octets of the header, without the empty line; -1: too large to judge
	body int // where the body begins

	line  int    // octets of the line in hand; 0: at its beginning
	cr    bool   // of BDAT: the last octet was CR, and is not added yet
	unfit string // why it cannot be spooled; "": it can
	err   error  // why nobody can have it
}

// What nobody can have.
var (
	errBare  = errors.New("bare CR or LF in the message")
	errLarge = errors.New("message is too large")
)

// mems are the memory of messages that are gone.
var mems = sync.Pool{New: func() any { return new([]byte) }}

// newContent begins a message. One above inMemory has the rest in a file in dir that has no
// name: after a crash there is nothing to clean up.
func newContent(dir string, most int64) *content {
	return &content{dir: dir, max: most, mem: (*mems.Get().(*[]byte))[:0], head: -1}
}

// close gives back what the content holds.
func (c *content) close() {
	if c.file != nil {
		c.file.Close()
	}
	if mem := c.mem; mem != nil {
		c.mem = nil
		mems.Put(&mem)
	}
}

// scan takes content as far as it can be told what it is: b may begin and end anywhere. It
// returns how much it has used, all but two octets at least, and whether that ends with the
// end mark of DATA. Where dots is set, those that were doubled are undone (RFC 5321 section
// 4.5.2), and there is an end mark. The error is an end.
func (c *content) scan(b []byte, dots bool) (used int, ended bool, err error) {
	run := 0 // what is before used, and not added yet, begins here
	for used < len(b) {
		line, whole := b[used:], false
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, whole = line[:i+1], true
		}
		text := bytes.IndexByte(line, '\r')
		switch {
		case whole && text < 0:
			return used, false, endBareLF
		case whole && text != len(line)-2, !whole && text >= 0 && text != len(line)-1:
			return used, false, endBareCR
		case text < 0:
			text = len(line)
		}
		dot := 0
		if dots && c.line == 0 && line[0] == '.' {
			if !whole && len(line) < len(".\r\n") {
				break // it may become the end mark
			}
			c.add(b[run:used])
			if whole && len(line) == len(".\r\n") {
				return used + len(line), true, nil
			}
			run, dot = used+1, 1
		}
		if c.line += text - dot; c.line > milter.MaxLine {
			c.unfit = fmt.Sprintf("content has a line of more than %d octets", milter.MaxLine)
		}
		if !whole {
			used += text // a CR waits for its LF
			break
		}
		c.line = 0
		used += len(line)
	}
	c.add(b[run:used])
	return used, false, nil
}

// piece takes content of BDAT, which has neither dots nor an end mark. A CR or LF by itself
// there is content, but such as no receiver could take as it is.
func (c *content) piece(b []byte) {
	if len(b) == 0 || c.err != nil {
		return
	}
	if c.cr {
		if b[0] != '\n' {
			c.err = errBare
			return
		}
		c.add([]byte("\r\n"))
		c.cr, c.line, b = false, 0, b[1:]
	}
	used, _, err := c.scan(b, false)
	if err != nil {
		c.err = errBare
	}
	c.cr = used < len(b)
}

// finish ends the content. Its last line gets a CRLF if it has none, which is how it must be
// sent on.
func (c *content) finish() error {
	if c.cr {
		c.err = errBare
	}
	if c.line > 0 {
		c.add([]byte("\r\n"))
	}
	if c.err == nil && c.size > c.max {
		c.err = errLarge
	}
	top := c.mem[:min(len(c.mem), maxHead)]
	switch i := bytes.Index(top, []byte("\r\n\r\n")); {
	case bytes.HasPrefix(top, []byte("\r\n")):
		c.head, c.body = 0, 2
	case i >= 0:
		c.head, c.body = i+2, i+4
	case c.file == nil && len(top) == len(c.mem): // a header alone
		c.head, c.body = len(c.mem), len(c.mem)
	}
	return c.err
}

func (c *content) add(b []byte) {
	if len(b) == 0 || c.err != nil {
		return
	}
	if c.size += int64(len(b)); c.size > c.max {
		return
	}
	if bytes.IndexByte(b, 0) >= 0 {
		c.unfit = "content has a NUL"
	}
	if room := inMemory - len(c.mem); c.file == nil && room > 0 {
		n := min(room, len(b))
		c.mem = append(c.mem, b[:n]...)
		b = b[n:]
	}
	if len(b) == 0 {
		return
	}
	if c.file == nil {
		fd, err := unix.Open(c.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			c.err = fmt.Errorf("no place for a large message: %w", err)
			return
		}
		c.file = os.NewFile(uintptr(fd), "message")
	}
	if _, err := c.file.Write(b); err != nil {
		c.err = fmt.Errorf("no place for a large message: %w", err)
	}
}

// header is the header, or as much of one that is too large to judge as is in memory.
func (c *content) header() []byte {
	if c.head < 0 {
		return c.mem
	}
	return c.mem[:c.head]
}

// all reads the whole message, rest what follows the header's empty line.
func (c *content) all() io.Reader { return c.from(0) }

func (c *content) rest() io.Reader { return c.from(c.body) }

func (c *content) from(at int) io.Reader {
	r := io.Reader(bytes.NewReader(c.mem[at:]))
	if c.file != nil {
		r = io.MultiReader(r, io.NewSectionReader(c.file, 0, c.size-int64(len(c.mem))))
	}
	return r
}
