package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Wire is a switch in the room: a bridge, to which [Machine]s are plugged, and on which the
// program itself has an address. It stands for what connects several machines; like all of the
// room it is gone with it. It needs Debian's iproute2.
type Wire struct {
	bridge string
	prefix netip.Prefix

	mu       sync.Mutex
	machines []*Machine
}

// NewWire makes a switch whose machines have addresses of prefix, the program that of prefix
// itself: 10.71.0.1/24.
func NewWire(ctx context.Context, prefix netip.Prefix) (*Wire, error) {
	if !Isolated() {
		return nil, errors.New("new wire: the program is not isolated: call lab.Isolate or lab.Main first")
	}
	w := &Wire{bridge: "wire0", prefix: prefix}
	for _, args := range [][]string{
		{"link", "add", w.bridge, "type", "bridge"},
		{"address", "add", prefix.String(), "dev", w.bridge},
		{"link", "set", w.bridge, "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return nil, fmt.Errorf("new wire: %w", err)
		}
	}
	return w, nil
}

// Close removes the switch and all that is plugged to it; programs there must have ended.
func (w *Wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, n := range w.machines {
		errs = append(errs, n.remove())
	}
	w.machines = nil
	return errors.Join(append(errs, ip(context.Background(), "link", "delete", w.bridge))...)
}

// AddAddress gives the program another address on the wire.
func (w *Wire) AddAddress(ctx context.Context, a netip.Addr) error {
	return ip(ctx, "address", "add", netip.PrefixFrom(a, w.prefix.Bits()).String(), "dev", w.bridge)
}

// Machine is a network of its own: a namespace with a loopback interface and one that is
// plugged to a [Wire]. Its programs share the room's files, processes and users.
type Machine struct {
	Name string
	Addr netip.Addr

	namespace *os.File
	outer     string // the end of its cable at the switch
	hardware  string // address of the other end
}

// Plug makes a machine with an address on the wire. Its name has at most 10 letters.
func (w *Wire) Plug(ctx context.Context, name string, addr netip.Addr) (_ *Machine, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("plug %s: %w", name, err)
		}
	}()
	n := &Machine{Name: name, Addr: addr, outer: "plug-" + name, hardware: hardwareOf(addr)}
	if n.namespace, err = newNamespace(); err != nil {
		return nil, err
	}
	// An ip(8) that gets a path opens it: the namespace needs no name in /run/netns, which is the
	// host's.
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.namespace.Fd())
	err = errors.Join(
		ip(ctx, "link", "add", n.outer, "type", "veth", "peer", "name", "eth0", "address", n.hardware, "netns", path),
		ip(ctx, "link", "set", n.outer, "master", w.bridge, "up"),
	)
	if err != nil {
		return nil, errors.Join(err, n.namespace.Close())
	}
	w.mu.Lock()
	w.machines = append(w.machines, n)
	w.mu.Unlock()
	return n, n.Within(func() error {
		return errors.Join(
			loopbackUp(),
			ip(ctx, "address", "add", netip.PrefixFrom(addr, w.prefix.Bits()).String(), "dev", "eth0"),
			ip(ctx, "link", "set", "eth0", "up"),
		)
	})
}

// hardwareOf makes an Ethernet address of a machine's IPv4 address: locally administered.
func hardwareOf(addr netip.Addr) string {
	a := addr.As4()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3])
}

// onThread runs f on a thread of its own, which ends with it: f may change what the thread sees. It
// is never the first one, which does not end, and by which /proc/self goes.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			done <- f()
			return // with the lock: the thread ends
		}
		defer runtime.UnlockOSThread() // while this goroutine has the first thread, the next has another
		done <- onThread(f)
	}()
	return <-done
}

// newNamespace makes a network namespace, which lives as long as the file is open or a program
// is in it.
func newNamespace() (file *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return file, err
}

// Within runs f on a thread that is in the network: sockets that it opens and programs that it
// starts are there. Goroutines that it starts are not.
func (n *Machine) Within(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// Cut loses all that the machine and another one on the wire send each other, in silence, as a
// switch does that fails; they reach everybody else. Connections stay, and go on after Mend.
// Each sends frames to a hardware address that nobody has.
func (n *Machine) Cut(ctx context.Context, other *Machine) error {
	return n.each(ctx, other, "02:00:00:00:00:00")
}

// Mend ends a Cut.
func (n *Machine) Mend(ctx context.Context, other *Machine) error { return n.each(ctx, other, "") }

func (n *Machine) each(ctx context.Context, other *Machine, hardware string) error {
	set := func(at, to *Machine) error {
		hw := hardware
		if hw == "" {
			hw = to.hardware
		}
		return at.Within(func() error {
			return ip(ctx, "neighbour", "replace", to.Addr.String(), "lladdr", hw, "dev", "eth0", "nud", "permanent")
		})
	}
	return errors.Join(set(n, other), set(other, n))
}

// Unplug takes the machine's cable out of the switch: nobody reaches it, nor it anybody, and nothing tells
// it so.
func (n *Machine) Unplug(ctx context.Context) error {
	return ip(ctx, "link", "set", n.outer, "nomaster")
}

// Replug ends an Unplug.
func (w *Wire) Replug(ctx context.Context, n *Machine) error {
	return ip(ctx, "link", "set", n.outer, "master", w.bridge)
}

// remove deletes the cable, of which both ends go, and lets the namespace go.
func (n *Machine) remove() error {
	return errors.Join(ip(context.Background(), "link", "delete", n.outer), n.namespace.Close())
}

// ip runs ip(8).
func ip(ctx context.Context, args ...string) error {
	_, err := outputOf(exec.CommandContext(ctx, "ip", args...))
	return err
}
