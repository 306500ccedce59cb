package outcomes

import (
	"encoding/binary"
	"iter"
	"slices"
)

// keys find attempts by the hash of a text: of a recipient, or of a queue id. A key is the
// hash and, in its lower half, the id of the attempt in its file.
type keys []uint64

func keyOf(hash uint32, attempt int64) uint64 { return uint64(hash)<<32 | uint64(uint32(attempt)) }

// listKeys is how many keys a row of the table keys has, or a few more.
const listKeys = 64

// lists sorts the keys, and yields them in lists, each with its first hash. All keys
// of a hash are in one list. A list is 8 octets for each key, little endian, in order.
func (k keys) lists() iter.Seq2[uint32, []byte] {
	return func(yield func(uint32, []byte) bool) {
		slices.Sort(k)
		var list []byte
		for len(k) > 0 {
			n := min(listKeys, len(k))
			for n < len(k) && k[n]>>32 == k[n-1]>>32 {
				n++
			}
			list = list[:0]
			for _, key := range k[:n] {
				list = binary.LittleEndian.AppendUint64(list, key)
			}
			if !yield(uint32(k[0]>>32), list) {
				return
			}
			k = k[n:]
		}
	}
}

// found are the attempts in a list that have the hash.
func found(list []byte, hash uint32) (attempts []int64) {
	for ; len(list) >= 8; list = list[8:] {
		if key := binary.LittleEndian.Uint64(list); uint32(key>>32) == hash {
			attempts = append(attempts, int64(uint32(key)))
		}
	}
	return attempts
}

// replaced is a list in which one attempt stands in the place of another; 0 removes the
// key.
func replaced(list []byte, hash uint32, attempt, by int64) []byte {
	var k keys
	for ; len(list) >= 8; list = list[8:] {
		switch key := binary.LittleEndian.Uint64(list); {
		case key != keyOf(hash, attempt):
			k = append(k, key)
		case by != 0:
			k = append(k, keyOf(hash, by))
		}
	}
	slices.Sort(k)
	list = nil
	for _, key := range k {
		list = binary.LittleEndian.AppendUint64(list, key)
	}
	return list
}
