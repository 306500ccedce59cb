package smtp

import (
	"bytes"
	"io"
	"unicode/utf8"
)

const (
	replyBuffer   = 4096     // what one read takes at most
	maxReplyBytes = 64 << 10 // of one reply, line ends included
	maxReplyText  = 1024     // kept of a reply
	// maxReplyLine is kept of one line; the rest of the line is read over. It
	// is more than maxReplyText and the codes need.
	maxReplyLine = 1280
)

// replyReader takes replies from a byte stream. The reply just read stays in it
// until the next one: only those that somebody keeps become strings.
type replyReader struct {
	src     io.Reader
	seen    func(line []byte) // sees every line, if not nil
	more    func()            // is called after each line that does not end a reply, if not nil
	lenient bool              // lines that are no replies are read over
	buf     []byte
	r, w    int // buf[r:w] is read and not yet taken

	code     int
	enhanced []byte
	text     []byte
	joined   []byte // enhanced and text, to make one string of both
}

func newReplyReader(src io.Reader) replyReader {
	return replyReader{src: src, buf: make([]byte, replyBuffer)}
}

// unread tells whether the peer has sent more than was taken.
func (p *replyReader) unread() bool { return p.r < p.w }

// next reads one reply (RFC 5321 4.2). Lines may end in CRLF or LF. Where the
// lines of a reply disagree, the last one's code counts: it is the one that
// ends the reply. each, if not nil, sees the text of every line.
//
// A line that does not begin with a code is an error, or, to a lenient reader, read
// over, as smtp(8) does (smtp_chat.c). It is part of the text all the same. After an error
// code is 0, and text has what was said up to there.
func (p *replyReader) next(each func(text []byte)) error {
	p.code, p.enhanced, p.text = 0, p.enhanced[:0], p.text[:0]
	err := p.lines(each)
	if err != nil {
		p.code, p.enhanced = 0, p.enhanced[:0]
	}
	p.finish()
	return err
}

// lines reads the lines of a reply.
func (p *replyReader) lines(each func(text []byte)) error {
	used := 0
	for {
		line, n, err := p.line(maxReplyBytes - used)
		if err != nil {
			return err
		}
		used += n
		if p.seen != nil {
			p.seen(line)
		}
		if !isReplyLine(line) {
			p.addText(line)
			if p.lenient && !hasCode(line) {
				continue
			}
			return ErrMalformedReply
		}
		p.code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
		last := len(line) == 3 || line[3] == ' '
		text := line[min(4, len(line)):]
		if each != nil {
			each(text)
		}
		if n := enhancedCode(line[0], text); n > 0 {
			p.enhanced = append(p.enhanced[:0], text[:n]...)
			text = text[n:]
		}
		p.addText(text)
		if last {
			return nil
		}
		if p.more != nil {
			p.more()
		}
	}
}

// reply makes the reply just read a value that lasts.
func (p *replyReader) reply() Reply {
	p.joined = append(append(p.joined[:0], p.enhanced...), p.text...)
	s := string(p.joined)
	return Reply{Code: p.code, Enhanced: s[:len(p.enhanced)], Text: s[len(p.enhanced):]}
}

// line takes one line, without its end, of at most limit octets; it is valid
// until the next call. n is what it took of the stream.
func (p *replyReader) line(limit int) (line []byte, n int, err error) {
	seen, dropped := p.r, 0
	for {
		if i := bytes.IndexByte(p.buf[seen:p.w], '\n'); i >= 0 {
			end := seen + i
			line, n = p.buf[p.r:end], end+1-p.r+dropped
			p.r = end + 1
			if n > limit {
				return nil, n, ErrReplyTooLong
			}
			line = line[:min(len(line), maxReplyLine)]
			return bytes.TrimRight(line, "\r"), n, nil
		}
		if p.r > 0 {
			copy(p.buf, p.buf[p.r:p.w])
			p.w, p.r = p.w-p.r, 0
		}
		if p.w == len(p.buf) {
			dropped += p.w - maxReplyLine
			p.w = maxReplyLine
		}
		if p.w+dropped > limit {
			return nil, 0, ErrReplyTooLong
		}
		seen = p.w
		got, err := p.src.Read(p.buf[p.w:])
		p.w += got
		if got == 0 && err != nil {
			return nil, 0, err
		}
	}
}

// isReplyLine tells whether b begins with a code of class 2 to 5.
func isReplyLine(b []byte) bool { return hasCode(b) && b[0] >= '2' && b[0] <= '5' }

// hasCode tells whether b begins with three digits that end there or are followed by a
// blank or a hyphen.
func hasCode(b []byte) bool {
	return len(b) >= 3 && isDigit(b[0]) && isDigit(b[1]) && isDigit(b[2]) && (len(b) == 3 || b[3] == ' ' || b[3] == '-')
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// enhancedCode gives the length of the enhanced status code (RFC 2034) at the
// start of text, 0 if there is none of the class. It is looked for whether or
// not the peer announced such codes; many send them unannounced.
func enhancedCode(class byte, text []byte) int {
	if class == '3' || len(text) < 5 || text[0] != class {
		return 0
	}
	i := 1
	for range 2 {
		if i >= len(text) || text[i] != '.' {
			return 0
		}
		start := i + 1
		for i = start; i < len(text) && isDigit(text[i]); i++ {
		}
		if d := i - start; d < 1 || d > 3 {
			return 0
		}
	}
	if i < len(text) && text[i] != ' ' {
		return 0
	}
	return i
}

// addText joins a line to the text, with control characters made blanks: the
// text goes into logs and reports.
func (p *replyReader) addText(line []byte) {
	line = bytes.Trim(line, " \t")
	if len(line) == 0 {
		return
	}
	if len(p.text) > 0 && len(p.text) < maxReplyText {
		p.text = append(p.text, ' ')
	}
	for _, b := range line[:min(len(line), maxReplyText-len(p.text))] {
		if b < ' ' || b == 0x7f {
			b = ' '
		}
		p.text = append(p.text, b)
	}
}

// finish drops an enhanced code that contradicts the reply's, and replaces
// what is not UTF-8 and the control characters of Latin-1 by question marks.
func (p *replyReader) finish() {
	if len(p.enhanced) > 0 && int(p.enhanced[0]-'0') != p.code/100 {
		p.enhanced = p.enhanced[:0]
	}
	for i := 0; i < len(p.text); {
		if p.text[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(p.text[i:])
		if (r == utf8.RuneError && n == 1) || r < 0xa0 {
			for j := range n {
				p.text[i+j] = '?'
			}
		}
		i += n
	}
}
