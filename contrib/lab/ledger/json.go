package ledger

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// jsonLine is a record, or a recipient refused for good.
type jsonLine struct {
	*Record
	Refused string `json:"refused,omitempty"`
}

// WriteJSON writes the ledger as JSON, one record a line, then the recipients
// refused for good as {"refused":"user@domain"}.
func (l *Ledger) WriteJSON(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for r := range l.Records() {
		if err := enc.Encode(&r); err != nil {
			return fmt.Errorf("ledger: write: %w", err)
		}
	}
	for _, rcpt := range slices.Sorted(maps.Keys(l.snapshotRefused())) {
		if err := enc.Encode(jsonLine{Refused: rcpt}); err != nil {
			return fmt.Errorf("ledger: write: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("ledger: write: %w", err)
	}
	return nil
}

// ReadJSON reads what [Ledger.WriteJSON] wrote. Each record becomes a message
// of its own.
func ReadJSON(r io.Reader) (*Ledger, error) {
	l := new(Ledger)
	dec := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	dec.DisallowUnknownFields()
	for {
		line := jsonLine{Record: new(Record)}
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			return l, nil
		} else if err != nil {
			return nil, fmt.Errorf("ledger: read record %d: %w", l.Len()+1, err)
		}
		if line.Refused != "" {
			l.Refuse([]byte(line.Refused))
			continue
		}
		rec := line.Record
		m := Message{
			ID: []byte(rec.ID), Sender: []byte(rec.Sender), Recipients: [][]byte{[]byte(rec.Recipient)},
			Hash: rec.Hash, Time: rec.Time, Conn: rec.Conn, Size: rec.Size, Above: rec.Above, Unanswered: rec.Unanswered,
		}
		if rec.Provider != "" || rec.Host != "" {
			m.Place = l.Place(rec.Provider, rec.Host)
		}
		l.Add(&m)
	}
}
