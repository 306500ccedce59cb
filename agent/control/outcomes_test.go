package control

import (
	"context"
	"errors"
	"testing"
	"time"
)

func (f fixed) Outcomes(_ context.Context, q OutcomeQuestion, yield func(*Outcome) error) error {
	for i := range f.n {
		if err := yield(&Outcome{ID: q.ID, QueueID: q.QueueID, Recipient: q.Recipient, Stream: *q.Stream, Time: q.Since, Ordinal: uint32(i)}); err != nil {
			return err
		}
	}
	if q.Recipient == "" {
		return errors.New("one file is damaged")
	}
	return nil
}

func (fixed) Erase(_ context.Context, e Erasure) (Erased, error) {
	return Erased{Rows: len(e.Address)}, nil
}

func TestOutcomesPassTheSocket(t *testing.T) {
	t.Parallel()
	c := NewClient(open(t, fixed{n: 3}))
	t.Cleanup(c.Close)
	stream := ""
	q := OutcomeQuestion{Recipient: "a+b@example.com", QueueID: "q", ID: "M1-2", Stream: &stream, Since: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)}
	n := 0
	err := c.Outcomes(t.Context(), q, func(o *Outcome) error {
		if o.Recipient != q.Recipient || o.QueueID != "q" || o.ID != "M1-2" || !o.Time.Equal(q.Since) || o.Ordinal != uint32(n) {
			t.Errorf("%+v", o)
		}
		n++
		return nil
	})
	if err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	q.Recipient, n = "", 0
	err = c.Outcomes(t.Context(), q, func(*Outcome) error { n++; return nil })
	if n != 3 || err == nil || err.Error() != "the agent: one file is damaged" {
		t.Errorf("%d, %v", n, err)
	}
	if done, err := c.Erase(t.Context(), Erasure{Address: "a@b"}); err != nil || done.Rows != 3 {
		t.Errorf("%+v, %v", done, err)
	}
}

func (fixed) Day(context.Context, time.Time) (DayTotals, error) { return DayTotals{}, nil }
