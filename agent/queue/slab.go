package queue

// slab is a growing array of records addressed by number, with a free list. It
// grows by whole chunks, so records never move and a growing backlog never
// copies what is there. Number 0 is never handed out: it means "none".
type slab[T any] struct {
	chunks [][]T
	used   uint32 // highest number ever handed out
	spare  []uint32
}

const chunkBits = 12 // 4096 records a chunk

func (s *slab[T]) at(n uint32) *T { return &s.chunks[n>>chunkBits][n&(1<<chunkBits-1)] }

func (s *slab[T]) take() (uint32, *T) {
	if n := len(s.spare); n > 0 {
		no := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return no, s.at(no)
	}
	s.used++
	if int(s.used>>chunkBits) >= len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, 1<<chunkBits))
	}
	return s.used, s.at(s.used)
}

// add takes a number for x.
func (s *slab[T]) add(x T) uint32 {
	no, p := s.take()
	*p = x
	return no
}

func (s *slab[T]) free(n uint32) {
	var zero T
	*s.at(n) = zero
	s.spare = append(s.spare, n)
}

// names gives numbers to strings that many records share, and forgets a string
// when its last holder drops it. Past limit distinct strings, new ones share
// one number per hash, so hostile input cannot grow the table without bound.
type names struct {
	limit     int
	pastLimit func(text string) string // the name that a string shares past limit; nil: shared
	index     map[string]uint32
	texts     slab[name]
}

type name struct {
	text string
	refs uint32
}

const (
	// maxStreams: more distinct campaigns than this at a time are hashed together.
	maxStreams = 4096
	// maxReasons: reply texts often carry a session id each; a listing can live
	// with the text of another recipient that failed the same way.
	maxReasons = 16384
	overflow   = 64 // shared numbers past the limit
)

func (t *names) ref(text string) uint32 {
	if text == "" {
		return 0
	}
	if no, ok := t.index[text]; ok {
		t.texts.at(no).refs++
		return no
	}
	if len(t.index) >= t.limit {
		if t.pastLimit != nil {
			text = t.pastLimit(text)
		} else {
			text = shared(text)
		}
		if no, ok := t.index[text]; ok {
			t.texts.at(no).refs++
			return no
		}
	}
	no, n := t.texts.take()
	*n = name{text, 1}
	if t.index == nil {
		t.index = make(map[string]uint32)
	}
	t.index[text] = no
	return no
}

// shared is the name that a string shares with others past the limit. No stream
// has it by itself, as theirs have no blanks.
func shared(text string) string {
	return sharedPrefix + string(rune('A'+hash(text)%overflow)) + ")"
}

const sharedPrefix = "(other "

func (t *names) unref(no uint32) {
	if no == 0 {
		return
	}
	n := t.texts.at(no)
	if n.refs--; n.refs == 0 {
		delete(t.index, n.text)
		t.texts.free(no)
	}
}

func (t *names) text(no uint32) string {
	if no == 0 {
		return ""
	}
	return t.texts.at(no).text
}

// hash is FNV-1a: short strings, no seed to carry.
func hash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
