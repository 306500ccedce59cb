package trace

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"hash/fnv"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// Keys are the secrets behind a mark.
type Keys struct {
	Loop    []byte // of this spool: knows mail that was here before
	seals   []seal // the first one is written, all are read
	members []member
}

// Member is the loop key of another host of the fleet.
type Member struct {
	Node string
	Key  []byte
}

// member is one with the seal that it writes where it has no secret in common with others.
type member struct {
	Member
	seal seal
}

// With returns the keys with those of the other hosts of a fleet: their marks are read, and
// their mail is known for mail that was here before.
func (k Keys) With(members []Member) Keys {
	k.members = nil
	for _, m := range members {
		k.members = append(k.members, member{m, newSeal(m.Key)})
	}
	return k
}

// NewKeys returns the keys of a spool with its loop key. Hosts with a secret in common read
// the sealed part of each other's marks: the first secret writes it, the others, older ones,
// read it. What the loop key has sealed can be read always. It is sealed by that alone
// where there is no shared secret.
func NewKeys(loop []byte, shared ...[]byte) Keys {
	k := Keys{Loop: loop}
	for _, secret := range shared {
		k.seals = append(k.seals, newSeal(secret))
	}
	k.seals = append(k.seals, newSeal(loop))
	return k
}

// seal is one secret, as two keys.
type seal struct {
	hashers *sync.Pool // of *hasher: to make one costs as much as to use it
	block   cipher.Block
}

// hasher is a keyed hash with room for what it is over.
type hasher struct {
	hash.Hash
	b []byte
}

// sum is the keyed hash over texts, each ended by a NUL, and octets behind them.
func (s *seal) sum(octets []byte, texts ...string) (sum [sha256.Size]byte) {
	h := s.hashers.Get().(*hasher)
	defer s.hashers.Put(h)
	h.b = h.b[:0]
	for _, t := range texts {
		h.b = append(append(h.b, t...), 0)
	}
	h.b = append(h.b, octets...)
	h.Reset()
	h.Write(h.b)
	h.b = h.Sum(h.b[:0])
	return [sha256.Size]byte(h.b)
}

func newSeal(secret []byte) seal {
	derive := func(use string) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte("millrace mark " + use))
		return h.Sum(nil)
	}
	block, err := aes.NewCipher(derive("cipher"))
	if err != nil {
		panic(err) // a key of 32 octets is one
	}
	mac := derive("mac")
	return seal{&sync.Pool{New: func() any { return &hasher{Hash: hmac.New(sha256.New, mac)} }}, block}
}

const (
	// tagSize is the length of a seal's tag in octets.
	tagSize = 12
	// hashSize is what a mark has of each recipient of a transaction of several.
	hashSize = 4
	// maxPlain bounds what is sealed, so that the line stays far below the 998 octets of
	// RFC 5322: in base64 it is a third longer. An address has up to 254 octets (RFC 5321),
	// 50 recipients, the default of a transaction, 200.
	maxPlain = 400
)

// Mark is what a Received field of ours proves about a copy of a message: that it was
// written by a holder of the key for this message and, where Sealed, for which recipients
// of which stream. It proves nothing about who shows it: a list archive shows it to anybody.
type Mark struct {
	ID      spool.ID
	QueueID string
	Node    string // of the fleet, that wrote it; "": this host, or one that is not known
	// Sealed: the fields below are known. Marks of earlier versions, and of a
	// transaction with more recipients than fit, are not.
	Sealed bool
	Day    time.Time // when the message arrived, to the day, UTC
	Stream string
	// Recipient is the one recipient of the transaction, Ordinal its place in the
	// envelope; "" if the transaction had several.
	Recipient string
	Ordinal   uint32

	among map[[hashSize]byte]bool // of several
	seal  seal
}

// For reports whether an address is one of the recipients of the transaction. Of several it
// is wrong once in a hundred million addresses.
func (m *Mark) For(address string) bool {
	switch {
	case !m.Sealed || address == "":
		return false
	case m.Recipient != "":
		return strings.EqualFold(m.Recipient, address)
	}
	return m.among[m.seal.hash(m.ID.String(), m.QueueID, address)]
}

// hash is what the mark of several recipients has of one.
func (s *seal) hash(id, qid, address string) [hashSize]byte {
	sum := s.sum(nil, "recipient", id, qid, strings.ToLower(address))
	return [hashSize]byte(sum[:])
}

// sealed is the sealed part of a mark: for these recipients, by their ordinals, of a
// message. It is "" if there are more than fit.
//
// What is sealed, with varints as in encoding/binary: the day of arrival since 1970; octets
// of the stream's name, the name; the number of recipients if there are several, and a hash
// of each, or 0, the ordinal of the one, and its address. The tag comes first; it is the
// HMAC of all this and of the two ids, and the initial vector of the cipher too (a synthetic
// one, as in RFC 5297): the same mark is the same octets each time, and nothing of a mark
// tells whom another is for.
func (s *seal) sealed(e *spool.Envelope, id, qid string, to []uint32) string {
	plain := binary.AppendUvarint(make([]byte, tagSize, tagSize+64), uint64(max(e.Arrived.Unix()/86400, 0)))
	plain = append(binary.AppendUvarint(plain, uint64(len(e.Stream))), e.Stream...)
	if len(to) == 1 {
		plain = binary.AppendUvarint(append(plain, 0), uint64(to[0]))
		plain = append(plain, e.Recipients[to[0]].Address...)
	} else {
		if len(to)*hashSize > maxPlain {
			return ""
		}
		plain = binary.AppendUvarint(plain, uint64(len(to)))
		for _, i := range to {
			h := s.hash(id, qid, e.Recipients[i].Address)
			plain = append(plain, h[:]...)
		}
	}
	if len(plain) > tagSize+maxPlain {
		return ""
	}
	tag := s.tag(id, qid, plain[tagSize:])
	copy(plain, tag[:])
	s.crypt(plain)
	return base64.RawURLEncoding.EncodeToString(plain)
}

// open reads what sealed wrote.
func (s *seal) open(m *Mark, text string) bool {
	if len(text) > base64.RawURLEncoding.EncodedLen(tagSize+maxPlain) {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < tagSize {
		return false
	}
	s.crypt(b)
	tag := s.tag(m.ID.String(), m.QueueID, b[tagSize:])
	if !hmac.Equal(tag[:], b[:tagSize]) {
		return false
	}
	b = b[tagSize:]
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[max(n, 0):]
		return v
	}
	day := number()
	n := number()
	if n > uint64(len(b)) {
		return false
	}
	m.Day, m.Stream, b = time.Unix(int64(day)*86400, 0).UTC(), string(b[:n]), b[n:]
	if n = number(); n == 0 {
		m.Ordinal, m.Recipient = uint32(number()), string(b)
	} else {
		m.among = make(map[[hashSize]byte]bool)
		for ; len(b) >= hashSize; b = b[hashSize:] {
			m.among[[hashSize]byte(b)] = true
		}
	}
	m.seal, m.Sealed = *s, true
	return true
}

func (s *seal) tag(id, qid string, plain []byte) [tagSize]byte {
	sum := s.sum(plain, "seal", id, qid)
	return [tagSize]byte(sum[:])
}

// crypt encrypts, or decrypts, what follows the tag.
func (s *seal) crypt(b []byte) {
	var iv [aes.BlockSize]byte
	copy(iv[:], b[:tagSize])
	cipher.NewCTR(s.block, iv[:]).XORKeyStream(b[tagSize:], b[tagSize:])
}

// Read returns what our mark in a Received field's value proves; ok is false if there is
// none that holds under the keys. What is sealed holds by itself, under a shared secret too;
// the hash alone proves no recipient.
func (k *Keys) Read(received string) (m Mark, ok bool) {
	for x := range ids(received) {
		id, err := spool.ParseID(x.id)
		if err != nil {
			continue
		}
		m = Mark{ID: id, QueueID: x.qid}
		for i := range k.seals {
			if x.sealed != "" && k.seals[i].open(&m, x.sealed) {
				if !x.holds(k.Loop) { // it is a secret that others have, too
					m.Node, _ = k.memberOf(&x)
				}
				return m, true
			}
		}
		if x.holds(k.Loop) {
			return m, true
		}
		if node, seal := k.memberOf(&x); seal != nil {
			if m.Node = node; x.sealed != "" {
				seal.open(&m, x.sealed)
			}
			return m, true
		}
	}
	return Mark{}, false
}

// memberOf is the host of the fleet by whose loop key a mark holds, and its seal.
func (k *Keys) memberOf(x *written) (node string, s *seal) {
	for i := range k.members {
		if x.holds(k.members[i].Key) {
			return k.members[i].Node, &k.members[i].seal
		}
	}
	return "", nil
}

// Marked reports whether a Received field's value carries a mark of this host, or of another
// of its fleet.
func (k *Keys) Marked(received string) bool {
	for x := range ids(received) {
		if x.holds(k.Loop) {
			return true
		}
		if _, seal := k.memberOf(&x); seal != nil {
			return true
		}
	}
	return false
}

// Copy is a number that is the same for all reports on one copy: of a message, for its
// recipient.
func (m *Mark) Copy() uint64 {
	h := fnv.New64a()
	io.WriteString(h, m.ID.String()+"\x00"+m.QueueID+"\x00"+m.Recipient)
	return h.Sum64()
}
