package fleet

import (
	"errors"
	"net"
)

// Bounds of what a store may send. The client library makes room for as much as a length says,
// and goes as deep as lists are nested: a store that lies would take the agent's memory.
const (
	mostOctets  = 64 << 20 // of a string
	mostElement = 1 << 20  // of a list
	mostNested  = 16
	mostLine    = 1 << 10 // of a header; errors and simple strings may have 64 times as much
)

var errNonsense = errors.New("what the store sends is not the protocol of Redis, or is too much")

// guard passes on what a server sends as far as it keeps to RESP2 and to these bounds.
// https://redis.io/docs/latest/develop/reference/protocol-spec/ has the protocol.
type guard struct {
	net.Conn
	line   []byte // the present header so far
	kind   byte   // of that
	long   int    // octets of a line that is no header
	skip   int    // octets of a string that are to come, with its end
	nested int    // lists that began one right in the other
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	for _, b := range p[:n] {
		if !g.passes(b) {
			return 0, errNonsense
		}
	}
	return n, err
}

// passes looks at one octet.
func (g *guard) passes(b byte) bool {
	switch {
	case g.skip > 0:
		g.skip--
		return true
	case g.kind == 0:
		g.kind, g.line, g.long = b, g.line[:0], 0
		return b == '+' || b == '-' || b == ':' || b == '$' || b == '*'
	case b == '\n':
		kind := g.kind
		g.kind = 0
		if kind != '$' && kind != '*' {
			g.nested = 0
			return true
		}
		return g.header(kind)
	case g.kind == '$' || g.kind == '*':
		if b != '\r' {
			g.line = append(g.line, b)
		}
		return len(g.line) <= mostLine
	}
	g.long++
	return g.long <= 64*mostLine
}

// header looks at a length.
func (g *guard) header(kind byte) bool {
	n, most := 0, mostElement
	if kind == '$' {
		most = mostOctets
	}
	if string(g.line) == "-1" { // there is none
		return true
	}
	for _, c := range g.line {
		if c < '0' || c > '9' {
			return false
		}
		if n = 10*n + int(c-'0'); n > most {
			return false
		}
	}
	if kind == '$' {
		g.skip, g.nested = n+2, 0
		return len(g.line) > 0
	}
	g.nested++
	return len(g.line) > 0 && g.nested <= mostNested
}
