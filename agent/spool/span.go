package spool

import "slices"

// span is a part of a segment in which all records that start are done: from is
// where the first of them starts, to is not in it.
type span struct{ from, to uint32 }

// spans are sorted and do not touch.
type spans []span

// find returns the span that holds an offset.
func (s spans) find(offset uint32) (span, bool) {
	i := s.after(offset)
	if i > 0 && offset < s[i-1].to {
		return s[i-1], true
	}
	return span{}, false
}

// after returns the index of the first span that starts behind an offset.
func (s spans) after(offset uint32) int {
	i, _ := slices.BinarySearchFunc(s, offset, func(sp span, o uint32) int {
		if sp.from <= o {
			return -1
		}
		return 1
	})
	return i
}

// add returns the spans with one more, joined with those that it meets.
func (s spans) add(n span) spans {
	if n.from >= n.to {
		return s
	}
	i := s.after(n.from)
	if i > 0 && s[i-1].to >= n.from {
		i--
		n.from = s[i].from
	}
	j := i
	for ; j < len(s) && s[j].from <= n.to; j++ {
		n.to = max(n.to, s[j].to)
	}
	return slices.Replace(s, i, j, n)
}

// blockSize is what file systems can give back, in octets: holes are made of
// whole blocks.
const blockSize = 4096

// blocks returns the whole blocks within a span.
func (n span) blocks() (off, size int64) {
	off = align(int64(n.from), blockSize)
	return off, max(0, int64(n.to)&^(blockSize-1)-off)
}

// blocks returns how many octets can be given back.
func (s spans) blocks() (total int64) {
	for _, n := range s {
		_, size := n.blocks()
		total += size
	}
	return total
}
