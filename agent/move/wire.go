package move

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// The requests. A batch is one line of JSON, which is a header, and then the contents of its
// messages in their order.
const (
	pathReady   = "/v1/move/ready"
	pathBatch   = "/v1/move/batch"
	pathConfirm = "/v1/move/confirm"
)

const (
	// maxHeader bounds the line of a batch, in octets: one envelope of the greatest size, in
	// base64, has 22 million.
	maxHeader = 32 << 20
	// MaxContent bounds the contents of a batch, in octets: a message of any size that a host MTA
	// is likely to allow.
	MaxContent = 1 << 30
	// maxValues bounds the values of that line, by its commas: an empty recipient has three octets in
	// it, and takes some 130 here.
	maxValues = 1 << 20
	// maxAnswer bounds answers and confirmations, in octets: ids of a batch's messages.
	maxAnswer = 1 << 20
	// callWithin is how long a batch may take, and a confirmation.
	callWithin = 10 * time.Minute
)

// header begins a batch.
type header struct {
	Version  int             `json:"v"`
	Transfer string          `json:"transfer"`
	Number   int             `json:"number"`
	Messages []headerMessage `json:"messages"`
}

// headerMessage is a message of a batch.
type headerMessage struct {
	message
	Size     int64  `json:"size"`     // octets of content
	Envelope []byte `json:"envelope"` // spool.EncodeEnvelope, with the recipients that are moved

	env *spool.Envelope // the same at the target, set by openBatch
}

// confirmation says which messages of a batch are the target's: no others.
type confirmation struct {
	Version  int      `json:"v"`
	Transfer string   `json:"transfer"`
	Number   int      `json:"number"`
	Moved    []string `json:"moved"` // ids at the origin
}

// answer is the answer to each request.
type answer struct {
	Has     map[string]string `json:"has,omitempty"`     // ids at the origin, and here
	Refused string            `json:"refused,omitempty"` // why there are not more of them
}

// part is a message as it is sent.
type part struct {
	head    headerMessage
	id      spool.ID
	content []byte // of small ones; nil: read when it is sent
}

// partOf reads a message. Its content is compared with its checksum before anything is sent.
func (m *Mover) partOf(id spool.ID, msg *message) (p part, err error) {
	e, c, err := m.o.Store.Message(id)
	if err != nil {
		return p, err
	}
	defer c.Close()
	sent := *e
	sent.Moved, sent.Recipients = "", make([]spool.Recipient, len(msg.Recipients))
	for i := range msg.Recipients {
		n := int(msg.Recipients[i].Ordinal)
		if n >= len(e.Recipients) {
			return p, fmt.Errorf("%s: %w: no recipient %d", id, spool.ErrDamaged, n)
		}
		sent.Recipients[i] = e.Recipients[n]
	}
	p = part{id: id, head: headerMessage{message: *msg, Size: c.Size(), Envelope: spool.EncodeEnvelope(&sent)}}
	if c.Size() > inMemory {
		_, err = io.Copy(io.Discard, c)
		return p, err
	}
	p.content, err = io.ReadAll(c)
	return p, err
}

// writeBatch writes a batch. An error in the middle ends the request, and the target takes no
// message that is not whole.
func (m *Mover) writeBatch(w io.Writer, l *list, parts []part) error {
	h := header{Version: version, Transfer: l.Transfer, Number: l.Number}
	for i := range parts {
		h.Messages = append(h.Messages, parts[i].head)
	}
	b := bufio.NewWriterSize(w, 64<<10)
	if err := json.NewEncoder(b).Encode(&h); err != nil {
		return err
	}
	for i := range parts {
		p := &parts[i]
		if p.head.Size <= inMemory {
			if _, err := b.Write(p.content); err != nil {
				return err
			}
			continue
		}
		c, err := m.o.Store.Open(p.id)
		if err != nil {
			return err
		}
		_, err = io.Copy(b, c)
		c.Close()
		if err != nil {
			return err
		}
	}
	return b.Flush()
}

// readHeader reads the line that begins a batch.
func readHeader(r *bufio.Reader) (h header, err error) {
	var line []byte
	for {
		piece, err := r.ReadSlice('\n')
		line = append(line, piece...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return h, err
		}
		if len(line) > maxHeader {
			return h, errors.New("the header of the batch is too large")
		}
	}
	if bytes.Count(line, []byte(",")) > maxValues {
		return h, errors.New("the header of the batch has too many values")
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, err
	}
	return h, check(h.Version, h.Transfer, h.Number)
}

// check looks at what each request says of its batch.
func check(v int, transfer string, number int) error {
	switch {
	case v > version:
		return fmt.Errorf("the other node is newer (version %d of moves); remedy: upgrade this one first", v)
	case !words.MatchString(transfer) || number < 1:
		return errors.New("that is no batch of a transfer")
	}
	return nil
}

// callJSON is call with a body of JSON.
func (m *Mover) callJSON(ctx context.Context, node, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return m.call(ctx, node, path, bytes.NewReader(b), out)
}

// call asks a node, and reads its answer.
func (m *Mover) call(ctx context.Context, node, path string, body io.Reader, out any) error {
	m.mu.Lock()
	peer := m.peer
	m.mu.Unlock()
	if peer == nil {
		return errors.New("this node is in no fleet; remedy: set name, and listen, of [fleet]")
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	if body == nil {
		body = http.NoBody
	}
	resp, err := peer.Do(ctx, node, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		said := strings.TrimSpace(string(text))
		if resp.StatusCode == http.StatusNotFound {
			said = "it takes no mail from other nodes; remedy: upgrade it, or restart it after an upgrade"
		}
		return fmt.Errorf("node %s: %s: %s", node, resp.Status, said)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	return nil
}
