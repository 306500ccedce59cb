package inject

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

// Shape is a set of peculiarities a message may have.
type Shape uint8

// The peculiarities.
const (
	Dots       Shape = 1 << iota // lines that begin with a dot, or are one
	EightBit                     // UTF-8 and Latin-1 octets in the body
	LongLines                    // lines of 990 characters
	NoFinalEOL                   // the last line's end is the final dot's CRLF
	OddHeaders                   // folded, empty, repeated headers in odd case
	AllShapes  = Dots | EightBit | LongLines | NoFinalEOL | OddHeaders
)

// The ids of generated messages begin with these.
const (
	BulkPrefix          = "b-"
	TransactionalPrefix = "t-"
)

// Generator makes messages: bulk newsletters, and transactional mail among
// them. The same fields and number give the same message. Its zero value, with
// Domains set, makes newsletters of about 4 KB to one recipient each. It must
// not be changed after the first message.
type Generator struct {
	Seed          uint64
	Domains       []string // of the recipients; must be set
	MinSize       int      // octets of content; default 4096
	MaxSize       int      // sizes spread evenly by order of magnitude; default MinSize
	MinRecipients int      // default 1
	MaxRecipients int      // default MinRecipients
	Transactional float64  // share of transactional messages, which have one recipient
	Shapes        Shape    // each message gets some of these
	Sender        string   // of bulk; default bounce@news.sender.test
	Clerk         string   // sender of transactional mail; default orders@shop.sender.test

	once sync.Once
	text [2]string // plain and 8-bit
}

// Message makes message number i.
func (g *Generator) Message(i int) *Message {
	g.once.Do(g.prepare)
	r := rand.New(rand.NewPCG(g.Seed, uint64(i)))
	transactional := r.Float64() < g.Transactional
	shapes := g.Shapes & Shape(r.Uint32())
	m := &Message{Sender: or(g.Sender, "bounce@news.sender.test")}
	prefix, recipients := BulkPrefix, g.between(r, max(g.MinRecipients, 1), g.MaxRecipients)
	if transactional {
		m.Sender = or(g.Clerk, "orders@shop.sender.test")
		prefix, recipients = TransactionalPrefix, 1
	}
	for k := range recipients {
		// The number makes each address another one within the message.
		m.Recipients = append(m.Recipients, fmt.Sprintf("user%d.%d@%s", r.IntN(1_000_000), k, g.Domains[r.IntN(len(g.Domains))]))
	}
	size := g.MinSize
	if size == 0 {
		size = 4096
	}
	size = g.between(r, size, g.MaxSize)
	b := make([]byte, 0, size+1024)
	b = fmt.Appendf(b, "%s: %s%d-%d\r\n", ledger.IDHeader, prefix, g.Seed, i)
	b = appendHeaders(b, i, m, transactional, shapes)
	b = append(b, "\r\n"...)
	b = g.appendBody(b, r, size, shapes)
	m.Content = b
	return m
}

// between picks a number, each order of magnitude alike.
func (g *Generator) between(r *rand.Rand, least, most int) int {
	if most <= least {
		return least
	}
	n := float64(least) * math.Exp(r.Float64()*math.Log(float64(most+1)/float64(least)))
	return min(int(n), most)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func appendHeaders(b []byte, i int, m *Message, transactional bool, shapes Shape) []byte {
	domain := m.Sender[strings.LastIndexByte(m.Sender, '@')+1:]
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Second)
	b = fmt.Appendf(b, "Message-ID: <%d.%d@%s>\r\nDate: %s\r\n", i, len(m.Recipients), domain, at.Format(time.RFC1123Z))
	if transactional {
		b = fmt.Appendf(b, "From: Shop <%s>\r\nTo: <%s>\r\nSubject: Your order %d\r\n", m.Sender, m.Recipients[0], i)
	} else {
		b = fmt.Appendf(b, "From: News <%s>\r\nTo: Readers <list@%s>\r\nSubject: News number %d\r\n", m.Sender, domain, i)
		b = fmt.Appendf(b, "List-Id: Weekly news <weekly.%s>\r\nPrecedence: bulk\r\n", domain)
		b = fmt.Appendf(b, "List-Unsubscribe: <https://%s/u/%d>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", domain, i)
	}
	b = append(b, "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"...)
	if shapes&EightBit != 0 {
		b = append(b, "Content-Transfer-Encoding: 8bit\r\n"...)
	}
	if shapes&OddHeaders != 0 {
		b = append(b, "X-FOLDED: one,\r\n two,\r\n\tthree\r\nx-odd-Case:no space\r\nX-Empty:\r\nX-Twice: 1\r\nX-Twice:  2 \r\nx-long: "...)
		b = append(b, strings.Repeat("abc ", 60)...)
		b = append(b, "\r\n"...)
	}
	return b
}

func (g *Generator) appendBody(b []byte, r *rand.Rand, size int, shapes Shape) []byte {
	if shapes&Dots != 0 {
		b = append(b, ".\r\n..\r\n.dot first\r\n. \r\n...\r\n"...)
	}
	if shapes&LongLines != 0 {
		b = append(b, bytes.Repeat([]byte("long line "), 99)...)
		b = append(b, "\r\n"...)
	}
	text := g.text[0]
	if shapes&EightBit != 0 {
		text = g.text[1]
	}
	at := r.IntN(len(text)/lineLength) * lineLength
	for len(b) < size {
		from := text[at:]
		if left := size - len(b); left < len(from) {
			from = from[:left]
		}
		b = append(b, from...)
		at = 0
	}
	// The cut may have left half a line end, or none.
	b = bytes.TrimRight(b, "\r\n")
	if shapes&NoFinalEOL == 0 {
		b = append(b, "\r\n"...)
	}
	return b
}

const lineLength = 72 // of generated text, CRLF included

// prepare makes the text that bodies are cut from.
func (g *Generator) prepare() {
	r := rand.New(rand.NewPCG(g.Seed, math.MaxUint64))
	const lines = 1000
	for k, letters := range []string{
		"abcdefghijklmnopqrstuvwxyz     ",
		"abcdefghijklmnopqrstuvwxyz     \xc3\xa4\xe2\x82\xac\xfc\xe9",
	} {
		b := make([]byte, 0, lines*lineLength)
		for range lines {
			b = append(b, 'A'+byte(r.IntN(26)))
			for range lineLength - 3 {
				b = append(b, letters[r.IntN(len(letters))])
			}
			b = append(b, "\r\n"...)
		}
		g.text[k] = string(b)
	}
}
