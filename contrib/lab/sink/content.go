package sink

import (
	"bytes"
	"io"
)

// content takes the octets between DATA and the final dot (RFC 5321, section
// 4.1.1.4) as they come from the socket and passes them on without their dot
// stuffing. Only CRLF ends a line; a message with any other CR or LF is marked
// bad, as current servers do against smuggling.
type content struct {
	to      io.Writer
	maxLine int
	inLine  bool // the next octet does not begin a line
	line    int  // octets of the unfinished line so far

	cr bool // the chunks so far end in CR

	size int64
	bare bool // a CR or LF by itself
	long bool // a line longer than maxLine
}

func (c *content) reset(maxLine int) {
	*c = content{to: c.to, maxLine: maxLine}
}

// feed takes what it can of p and says how much that was, and whether the
// final dot was in it. What it leaves must be given again with more behind.
func (c *content) feed(p []byte) (n int, done bool) {
	from := 0 // p[from:n] is not yet passed on
	for n < len(p) {
		rest := p[n:]
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			n += c.partial(rest, p, &from, n)
			break
		}
		line := rest[:i+1]
		if !c.inLine && line[0] == '.' {
			c.pass(p[from:n])
			if len(line) == 3 && line[1] == '\r' {
				return n + 3, true
			}
			from = n + 1
			line = line[1:]
		}
		c.end(line)
		n += i + 1
	}
	c.pass(p[from:n])
	return n, false
}

// partial takes the beginning of a line whose end is not there yet. A dot at
// its start must wait, so must a CR at its end.
func (c *content) partial(rest, p []byte, from *int, n int) int {
	take := len(rest)
	if rest[take-1] == '\r' {
		take--
	}
	stuffed := !c.inLine && rest[0] == '.'
	if take == 0 || stuffed && take == 1 {
		return 0
	}
	c.line += take
	if stuffed {
		c.pass(p[*from:n])
		*from = n + 1
		c.line--
	}
	if bytes.IndexByte(rest[:take], '\r') >= 0 {
		c.bare = true
	}
	c.inLine = true
	return take
}

// end looks at what remained of a line, with its LF. A LF without CR does not
// end the line: a dot behind it is content.
func (c *content) end(line []byte) {
	c.line += len(line)
	if c.maxLine > 0 && c.line > c.maxLine {
		c.long = true
	}
	cr := len(line) - 2
	if bytes.IndexByte(line, '\r') != cr || cr < 0 {
		c.bare = true
	}
	c.inLine = cr < 0 || line[cr] != '\r'
	if !c.inLine {
		c.line = 0
	}
}

func (c *content) pass(p []byte) {
	if len(p) > 0 {
		c.size += int64(len(p))
		c.to.Write(p)
	}
}

// chunk takes octets of a BDAT, which has no dot stuffing, and judges their lines as
// feed does.
func (c *content) chunk(p []byte) {
	for _, b := range p {
		c.line++
		if c.cr != (b == '\n') {
			c.bare = true
		}
		c.cr = b == '\r'
		if b == '\n' {
			c.long = c.long || c.maxLine > 0 && c.line > c.maxLine
			c.line = 0
		}
	}
	c.pass(p)
}

// last ends what came by chunk.
func (c *content) last() { c.bare = c.bare || c.cr }
