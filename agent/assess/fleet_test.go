package assess

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/trace"
)

// A report on mail of the node a that comes home to b is judged by a, once; by b where a does
// not take it.
func TestReportsThatComeHomeElsewhere(t *testing.T) {
	t.Parallel()
	a, b := newWorld(t, drop), newWorld(t, drop)
	keyA := []byte("the loop key of the spool of a..")
	a.a.Key = keyA
	s := httptest.NewServer(a.a.Receiver())
	t.Cleanup(s.Close)
	down := false
	b.a.Members = func() []trace.Member { return []trace.Member{{Node: "a", Key: keyA}} }
	b.a.HandOver = func(ctx context.Context, node string, message []byte) error {
		if down || node != "a" {
			return fmt.Errorf("no answer of %q", node)
		}
		req, err := http.NewRequestWithContext(ctx, "POST", s.URL, bytes.NewReader(message))
		if err != nil {
			return err
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	}
	sent := func(id uint32, to string, key []byte) []byte {
		m := message(id, to)
		m.keys = trace.NewKeys(key)
		return postfix(t, m, to)
	}
	first := sent(1, bob, keyA)
	for range 2 { // the first answer may have been lost
		if f := b.only(first); f.Result != HandedOver || f.Why == "" {
			t.Errorf("%+v", f)
		}
	}
	if l := b.listed(); len(l) != 0 || len(b.told()) != 0 {
		t.Errorf("judged by b: %v", l)
	}
	if l := a.listed(); len(l) != 0 {
		t.Errorf("judged before it was taken out of the box: %v", l)
	}
	if err := a.a.empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := a.listed(); !slices.Equal(l, []string{stream + " " + bob}) {
		t.Errorf("a lists %v", l)
	}
	if c := a.a.Counts(); c[Count{LateBounce, Counted}] != 1 || c[Count{LateBounce, Repeated}] != 1 {
		t.Errorf("a has counted %v", c)
	}

	down = true
	if f := b.only(sent(2, ann, keyA)); f.Result != Counted || f.Recipient != ann {
		t.Errorf("with a away: %+v", f)
	}
	down = false
	if f := b.only(sent(3, cleo, keyA)); f.Result != Counted {
		t.Errorf("a is asked again at once: %+v", f)
	}
	clear(b.a.away)
	// Another spool at a: it does not know that mail any more, and b does.
	a.a.Key = []byte("the loop key of a new spool of a")
	if f := b.only(sent(4, bob, keyA)); f.Result != Counted {
		t.Errorf("with a new spool at a: %+v", f)
	}
	if l := b.listed(); len(l) != 3 {
		t.Errorf("b lists %v", l)
	}
	// Nobody's mark is nobody's: neither host is asked.
	if f := b.only(sent(5, bob, []byte("a key that nobody has told"))); f.Result != Unverified {
		t.Errorf("%+v", f)
	}
	if err := a.a.Receive(sent(6, bob, keyA), time.Now()); err != ErrNotOurs {
		t.Error(err)
	}
}
