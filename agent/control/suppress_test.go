package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
)

func (f fixed) Suppressions(_ context.Context, yield func(*Suppression) error) error {
	for i := range f.n {
		if err := yield(&Suppression{Address: fmt.Sprint(i, "@b.test"), Stream: "s", Bounces: 3, Class: "userunknown", Suppressed: true}); err != nil {
			return err
		}
	}
	if f.n == 13 {
		return errors.New("the disk is gone")
	}
	return nil
}

func (f fixed) Suppress(_ context.Context, next func(*Suppression) error) (n int, err error) {
	var s Suppression
	for {
		switch err := next(&s); {
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		case s.Stream == "full":
			return n, errors.New("disk full")
		}
		n++
	}
}

func (f fixed) Unsuppress(_ context.Context, x SuppressionRemoval) (int, error) {
	if x.Stream != nil {
		return 1, nil
	}
	return len(x.Addresses), nil
}

func (f fixed) Feedback(_ context.Context, b []byte) ([]Finding, error) {
	if len(b) == 0 {
		return nil, nil
	}
	return []Finding{{Kind: "late_bounce", Result: "counted", Recipient: string(b[:min(len(b), 20)]), Why: strconv.Itoa(len(b))}}, nil
}

func (f fixed) SuppressionStats() SuppressionStats {
	return SuppressionStats{Mode: "drop", Suppressed: f.n}
}

// some gives n entries and then err.
func some(n int, stream string, err error) func(*Suppression) error {
	return func(s *Suppression) error {
		if n--; n < 0 {
			return err
		}
		*s = Suppression{Address: "a@b.test", Stream: stream}
		return nil
	}
}

func TestSuppressionRequests(t *testing.T) {
	t.Parallel()
	c, ctx := client(t, open(t, fixed{n: 50_000})), t.Context()
	n := 0
	if err := c.Suppressions(ctx, func(s *Suppression) error { n++; return nil }); err != nil || n != 50_000 {
		t.Errorf("%d entries, %v", n, err)
	}
	if n, err := c.Suppress(ctx, some(50_000, "s", io.EOF)); n != 50_000 || err != nil {
		t.Errorf("%d added, %v", n, err)
	}
	if _, err := c.Suppress(ctx, some(50_000, "full", io.EOF)); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("the agent's error came as %v", err)
	}
	broken := errors.New("list.txt:7: this is no address")
	if _, err := c.Suppress(ctx, some(7, "s", broken)); !errors.Is(err, broken) {
		t.Errorf("the input's error came as %v", err)
	}
	s := "s"
	if n, err := c.Unsuppress(ctx, SuppressionRemoval{Addresses: []string{"a", "b"}}); n != 2 || err != nil {
		t.Errorf("%d removed, %v", n, err)
	}
	if n, err := c.Unsuppress(ctx, SuppressionRemoval{Addresses: []string{"a", "b"}, Stream: &s}); n != 1 || err != nil {
		t.Errorf("%d removed, %v", n, err)
	}
	if st, err := c.SuppressionStats(ctx); err != nil || st.Suppressed != 50_000 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestAListThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 13}))
	if err := c.Suppressions(t.Context(), func(*Suppression) error { return nil }); err == nil {
		t.Error("half a list was taken for a whole one")
	}
}
