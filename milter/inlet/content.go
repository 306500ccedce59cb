package inlet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// inMemory is the size, in octets, up to which a message is held in memory.
	inMemory = 1 << 20
	// maxHead is the largest header that is judged; mail with a larger one is passed.
	maxHead = 1 << 20
)

// content is a whole message, as its client sent it, dots undone. It is read before anything
// becomes of it, so that whoever takes it in the end gets all of it.
type content struct {
	mem  []byte
	file *os.File // the rest; nil: none
	size int64
	head int // octets of the header, without the empty line; -1: too large to judge
	body int // where the body begins
}

// errBare is content that no receiver could take as it is.
var errBare = errors.New("content has a CR or LF by itself")

// receive reads a message to its end. Large ones go to a file in dir that has no name: after
// a crash there is nothing to clean up.
func receive(r io.Reader, dir string) (*content, error) {
	c := &content{head: -1}
	buf := make([]byte, 32<<10)
	cr := false
	for {
		n, err := r.Read(buf)
		b := buf[:n]
		if !paired(b, &cr) {
			c.close()
			return nil, errBare
		}
		if werr := c.add(b, dir); werr != nil {
			c.close()
			return nil, werr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			c.close()
			return nil, err
		}
	}
	if cr {
		c.close()
		return nil, errBare
	}
	if c.file == nil && len(c.mem) > 0 && c.mem[len(c.mem)-1] != '\n' { // the last chunk of BDAT
		c.mem = append(c.mem, '\r', '\n')
		c.size += 2
	}
	c.divide()
	return c, nil
}

// paired reports whether each CR is followed by LF and each LF is after a CR.
func paired(b []byte, cr *bool) bool {
	for len(b) > 0 {
		if *cr {
			if b[0] != '\n' {
				return false
			}
			*cr, b = false, b[1:]
			continue
		}
		i := bytes.IndexByte(b, '\r')
		line := b
		if i >= 0 {
			line = b[:i]
		}
		if bytes.IndexByte(line, '\n') >= 0 {
			return false
		}
		if i < 0 {
			return true
		}
		*cr, b = true, b[i+1:]
	}
	return true
}

func (c *content) add(b []byte, dir string) error {
	c.size += int64(len(b))
	if c.file == nil && len(c.mem)+len(b) <= inMemory {
		c.mem = append(c.mem, b...)
		return nil
	}
	if c.file == nil {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fmt.Errorf("no place for a large message: %w", err)
		}
		c.file = os.NewFile(uintptr(fd), "message")
	}
	if _, err := c.file.Write(b); err != nil {
		return fmt.Errorf("no place for a large message: %w", err)
	}
	return nil
}

// divide finds the end of the header.
func (c *content) divide() {
	top := c.mem[:min(len(c.mem), maxHead)]
	switch i := bytes.Index(top, []byte("\r\n\r\n")); {
	case bytes.HasPrefix(top, []byte("\r\n")):
		c.head, c.body = 0, 2
	case i >= 0:
		c.head, c.body = i+2, i+4
	case c.file == nil && len(top) == len(c.mem): // a header alone
		c.head, c.body = len(c.mem), len(c.mem)
	}
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

func (c *content) close() {
	if c.file != nil {
		c.file.Close()
	}
}
