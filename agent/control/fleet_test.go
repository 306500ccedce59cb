package control

import (
	"context"
	"errors"
	"testing"
)

func (fixed) Fleet() Fleet { return Fleet{Fleet: "mail", Node: "a", Members: []string{"a", "b"}} }

func (fixed) ForgetNode(_ context.Context, n FleetNode) error {
	if n.Node != "b" {
		return errors.New("no such node")
	}
	return nil
}

func (fixed) LeaveFleet(context.Context) error     { return nil }
func (fixed) BootstrapFleet(context.Context) error { return errors.New("there is one") }

func TestFleetPassesTheSocket(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{}))
	if f, err := c.Fleet(t.Context()); err != nil || f.Fleet != "mail" || len(f.Members) != 2 {
		t.Errorf("%+v, %v", f, err)
	}
	if err := errors.Join(c.ForgetNode(t.Context(), "b"), c.LeaveFleet(t.Context())); err != nil {
		t.Error(err)
	}
	if c.ForgetNode(t.Context(), "c") == nil || c.BootstrapFleet(t.Context()) == nil {
		t.Error("no error")
	}
}
