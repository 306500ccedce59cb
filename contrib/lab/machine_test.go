package lab

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestMachinesReachEachOtherUntilTheyAreCut(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := NewWire(ctx, netip.MustParsePrefix("10.71.0.1/24"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	var machines []*Machine
	for i, name := range []string{"one", "two"} {
		m, err := w.Plug(ctx, name, netip.AddrFrom4([4]byte{10, 71, 0, byte(2 + i)}))
		if err != nil {
			t.Fatal(err)
		}
		machines = append(machines, m)
	}
	one, two := machines[0], machines[1]
	var ln net.Listener
	if err := two.Within(func() error { ln, err = net.Listen("tcp", "10.71.0.3:25"); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	reaches := func(from *Machine) bool {
		dial := func() error {
			c, err := net.DialTimeout("tcp", ln.Addr().String(), 300*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err
		}
		if from == nil {
			return dial() == nil
		}
		return from.Within(dial) == nil
	}
	check := func(what string, fromOne, fromRoom bool) {
		t.Helper()
		if got := reaches(one); got != fromOne {
			t.Errorf("%s: one reaches two: %v, want %v", what, got, fromOne)
		}
		if got := reaches(nil); got != fromRoom {
			t.Errorf("%s: the room reaches two: %v, want %v", what, got, fromRoom)
		}
	}
	check("plugged", true, true)
	if err := one.Cut(ctx, two); err != nil {
		t.Fatal(err)
	}
	check("cut", false, true)
	if err := one.Mend(ctx, two); err != nil {
		t.Fatal(err)
	}
	check("mended", true, true)
	if err := two.Unplug(ctx); err != nil {
		t.Fatal(err)
	}
	check("unplugged", false, false)
	if err := w.Replug(ctx, two); err != nil {
		t.Fatal(err)
	}
	check("replugged", true, true)
}

// Whatever thread a machine's work is done on, the program stays where it is.
func TestProgramStaysInItsNetwork(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		f, err := newNamespace()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.Readlink("/proc/self/ns/net"); err != nil || after != before || !Isolated() {
		t.Errorf("the program was in %s, and is in %s (%v)", before, after, err)
	}
}
