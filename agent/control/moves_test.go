package control

import (
	"context"
	"errors"
	"testing"
)

func (f fixed) Transfers() []Transfer { return []Transfer{{ID: "t1", Node: "b", Recipients: f.n}} }

func (f fixed) EndTransfer(_ context.Context, o TransferOrder) (Selected, error) {
	if o.ID != "t1" {
		return Selected{}, ErrUnknown
	}
	return Selected{Recipients: f.n}, nil
}

func TestTransfersAreListedAndEnded(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 3}))
	list, err := c.Transfers(t.Context())
	if err != nil || len(list) != 1 || list[0].Node != "b" || list[0].Recipients != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	if n, err := c.EndTransfer(t.Context(), TransferOrder{ID: "t1"}); err != nil || n.Recipients != 3 {
		t.Errorf("%+v, %v", n, err)
	}
	if _, err := c.EndTransfer(t.Context(), TransferOrder{ID: "t2"}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a transfer that is none: %v", err)
	}
}
