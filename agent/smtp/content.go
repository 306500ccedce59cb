package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	blockSize = 64 << 10
	// minRead is the least room worth a read; with less, the block is written.
	minRead = 8 << 10
	// blockEnd is what a block always keeps free: CRLF, the dot and its CRLF,
	// and one doubled dot at the start of what is added.
	blockEnd = 6
)

// block is a piece of content on its way out: stuffed bytes, and where the
// content stands in its lines.
type block struct {
	b       []byte // of capacity blockSize
	marks   []int  // where dots are to be doubled; scratch space of commit
	newline bool   // what was added so far ends in CRLF, or is nothing
	cr      bool   // it ends in CR
	src     source
}

// source reads content. Its errors, but for io.EOF, wrap ErrContent; a reader that
// gives nothing and no error again and again is an error too.
type source struct {
	r    io.Reader
	idle int
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.idle++; n > 0 {
		s.idle = 0
	}
	if err == nil && s.idle > 100 {
		err = io.ErrNoProgress
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrContent, err)
	}
	return n, err
}

// blocks keeps blocks for reuse by all connections. A block is needed only
// while content is being written, not while a reply is awaited, so few serve
// many sessions. It is a cache: nothing depends on what is in it.
var blocks = sync.Pool{New: func() any { return &block{b: make([]byte, 0, blockSize)} }}

func newBlock(content io.Reader) *block {
	k := blocks.Get().(*block)
	k.b, k.newline, k.cr = k.b[:0], true, false
	k.src = source{r: content}
	return k
}

func (k *block) free() {
	k.src = source{}
	blocks.Put(k)
}

// room gives how much may be added so that it fits with every dot doubled
// that can be: a dot takes three octets, CR LF dot, and becomes a fourth.
func (k *block) room() int {
	return max(0, (cap(k.b)-len(k.b)-blockEnd)*3/4)
}

// tail is the space for what is added next, of room octets.
func (k *block) tail() []byte {
	return k.b[len(k.b) : len(k.b)+k.room()]
}

// commit takes the first n octets of the tail over and doubles the dots that
// begin a line (RFC 5321 4.5.2).
func (k *block) commit(n int) {
	if n == 0 {
		return
	}
	at := len(k.b)
	raw := k.b[at : at+n]

	k.marks = k.marks[:0]
	if k.newline && raw[0] == '.' {
		k.marks = append(k.marks, 0)
	}
	for i := 0; ; {
		j := bytes.Index(raw[i:], lfDot)
		if j < 0 {
			break
		}
		i += j + 1 // the dot
		if i == 1 && k.cr || i > 1 && raw[i-2] == '\r' {
			k.marks = append(k.marks, i)
		}
	}
	k.newline = raw[n-1] == '\n' && (n > 1 && raw[n-2] == '\r' || n == 1 && k.cr)
	k.cr = raw[n-1] == '\r'

	// Shift from the end, so that every octet moves once.
	k.b = k.b[:at+n+len(k.marks)]
	out, end := k.b[at:], n
	for m := len(k.marks) - 1; m >= 0; m-- {
		dot := k.marks[m]
		copy(out[dot+m+1:], out[dot:end])
		out[dot+m] = '.'
		end = dot
	}
}

var lfDot = []byte("\n.")

// finish adds the final dot, after a CRLF if the content lacks one.
func (k *block) finish() {
	if !k.newline {
		k.b = append(k.b, "\r\n"...)
	}
	k.b = append(k.b, finalDot...)
}

const finalDot = ".\r\n"

// writeContent copies prefix and content out, block by block, up to and
// including the final dot. The last block is kept back until the content has
// ended well, so after a read error no dot was written.
//
// It returns the stage of the failure: StageDot if the dot may have been seen.
func writeContent(prefix []byte, content io.Reader, write func([]byte) (int, error)) (Stage, error) {
	k := newBlock(content)
	defer k.free()

	flush := func() error {
		_, err := write(k.b)
		k.b = k.b[:0]
		return err
	}
	for len(prefix) > 0 {
		if k.room() < minRead {
			if err := flush(); err != nil {
				return StageContent, err
			}
		}
		n := copy(k.tail(), prefix)
		k.commit(n)
		prefix = prefix[n:]
	}
	for {
		if k.room() < minRead {
			if err := flush(); err != nil {
				return StageContent, err
			}
		}
		n, err := k.src.Read(k.tail())
		k.commit(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return StageContent, err
		}
	}
	k.finish()
	if n, err := write(k.b); err != nil {
		// Up to the dot itself nothing can have ended the message. From there
		// on a lenient server might see an end.
		if n > len(k.b)-len(finalDot) {
			return StageDot, err
		}
		return StageContent, err
	}
	return StageDot, nil
}

// isContentError tells a failure to read from a failure to write.
func isContentError(err error) bool { return errors.Is(err, ErrContent) }
