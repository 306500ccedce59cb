package spool

// textTable holds each text once, however many recipients share it: replies, or what mail leaves
// from.
//
// Replies with a session id in each are many, so their number is bounded: beyond
// it only the reply code and the enhanced status code are kept (RFC 3463), which
// are few, and beyond twice the bound nothing. The journal has the whole text
// until its next checkpoint.
type textTable struct {
	whole   bool // a text is kept as it is, or not at all
	numbers map[string]uint32
	texts   []replyText // 0 is ""
	free    []uint32
}

type replyText struct {
	text string
	uses uint32
}

const (
	maxReplies = 16 << 10 // and twice as many numbers at most, which fit in 16 bits
	replyCodes = 9        // octets of "451 4.7.1"
)

func newReplies() *textTable {
	return &textTable{numbers: make(map[string]uint32), texts: make([]replyText, 1)}
}

// newFroms returns a table of State.From: few, unless there are pools of hundreds of
// addresses in each family.
func newFroms() *textTable {
	t := newReplies()
	t.whole = true
	return t
}

// hold returns the number of a text, for one use of it.
func (t *textTable) hold(text string) uint32 {
	no, ok := t.numbers[text]
	if !ok && t.whole && len(t.numbers) >= maxReplies {
		text = ""
	} else if !ok && len(t.numbers) >= maxReplies {
		text = text[:min(len(text), replyCodes)]
		if no, ok = t.numbers[text]; !ok && len(t.numbers) >= 2*maxReplies {
			text = ""
		}
	}
	switch {
	case text == "":
		return 0
	case !ok && len(t.free) > 0:
		no = t.free[len(t.free)-1]
		t.free = t.free[:len(t.free)-1]
	case !ok:
		no = uint32(len(t.texts))
		t.texts = append(t.texts, replyText{})
	}
	if !ok {
		t.texts[no].text = text
		t.numbers[text] = no
	}
	t.texts[no].uses++
	return no
}

// drop ends one use.
func (t *textTable) drop(no uint32) {
	if no == 0 {
		return
	}
	r := &t.texts[no]
	if r.uses--; r.uses == 0 {
		delete(t.numbers, r.text)
		r.text = ""
		t.free = append(t.free, no)
	}
}

func (t *textTable) text(no uint32) string { return t.texts[no].text }
