package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/contrib/lab/inject"
)

// What switches the inlet on. User list is allowed at the socket, 38 everywhere on Debian.
const (
	inletFile   = "/etc/millrace/conf.d/inlet.toml"
	inletPort   = "127.0.0.1:8825"
	inletSocket = "/run/millrace-inlet/lists"
	inletTOML   = "[inlet]\nlisten = [\"inet:8825@127.0.0.1\", \"unix:" + inletSocket + "\"]\nallow = [\"list\"]\n"
	userList    = 38
	userNobody  = 65534 // whom a user namespace would show in the place of any other
)

// inlet has the packaged milter, in its sandbox, take mail of programs of this host at a port
// and at a socket, there of whom it allows; the package is not removed meanwhile.
func (l *life) inlet(ctx context.Context) error {
	if err := os.WriteFile(inletFile, []byte(inletTOML), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"systemctl", "restart", "millrace-milter"},
		{"systemctl", "reload", "millrace-agent"}, // which looks at once what such mail passes by
		{"millrace", "check"},
	} {
		if err := run(ctx, args[0], args[1:]...); err != nil {
			return err
		}
	}
	for _, uid := range []int{userNobody, 1} {
		if err := turnedAway(uid); err != nil {
			return err
		}
	}
	atSocket, end, err := bridge()
	if err != nil {
		return err
	}
	defer end()
	for _, addr := range []string{inletPort, atSocket} {
		if err := l.bySpool(ctx, addr); err != nil {
			return err
		}
	}
	for _, size := range []int{8 << 10, 100 << 10} {
		if err := l.pace(ctx, size); err != nil {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, "apt-get", "remove", "--yes", "millrace").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("the inlet still takes mail at inet:8825@127.0.0.1")) {
		return fmt.Errorf("removal with an inlet: %v\n%s", err, out)
	}
	if err := stopTold(ctx); err != nil {
		return err
	}
	if err := os.Remove(inletFile); err != nil {
		return err
	}
	return run(ctx, "systemctl", "restart", "millrace-milter")
}

// bySpool hands messages in at an address until one went past Postfix: before the agent has
// looked at Postfix's settings all are passed.
func (l *life) bySpool(ctx context.Context, addr string) error {
	before, err := verdicts(ctx)
	for n := before; err == nil && n == before; n, err = verdicts(ctx) {
		i := l.number()
		in := &inject.Injector{Addr: addr, Ledger: l.sent}
		res, err := in.Run(ctx, 1, func(int) *inject.Message { return letter(i, fmt.Sprintf("inlet%d@quick.test", i), "inlet.shop.test") })
		if err != nil || res.Messages != 1 {
			return fmt.Errorf("the inlet at %s took %d of 1 messages: %w", addr, res.Messages, errors.Join(err, res.Err))
		}
		time.Sleep(200 * time.Millisecond)
	}
	return err
}

// pace tells how many messages of a size a second go from a program to the receiver, by Postfix
// with the packaged milter and by the packaged inlet. It judges nothing: queue and spool lie in
// memory here.
func (l *life) pace(ctx context.Context, size int) error {
	const n = 1000
	var rates [2]float64
	for i, addr := range []string{"127.0.0.1:25", inletPort} {
		g := &inject.Generator{Seed: uint64(2*size + i), Domains: []string{"quick.test"}, MinSize: size}
		in := &inject.Injector{Addr: addr, Connections: 20, Ledger: l.sent}
		want, start := l.internet.Ledger().Len()+n, time.Now()
		res, err := in.Run(ctx, n, g.Message)
		if err != nil || res.Messages != n {
			return fmt.Errorf("%s took %d of %d messages: %w", addr, res.Messages, n, errors.Join(err, res.Err))
		}
		for l.internet.Ledger().Len() < want {
			if ctx.Err() != nil {
				return fmt.Errorf("of %d messages by %s, %d are missing: %w", n, addr, want-l.internet.Ledger().Len(), context.Cause(ctx))
			}
			time.Sleep(5 * time.Millisecond)
		}
		rates[i] = n / time.Since(start).Seconds()
	}
	fmt.Printf("%d messages of %d octets: by Postfix %.0f a second, by the inlet %.0f (%.2f times as many)\n", n, size, rates[0], rates[1], rates[1]/rates[0])
	return nil
}

// verdicts counts the messages that the inlet has spooled.
func verdicts(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, "journalctl", "-u", "millrace-milter", "-o", "cat", "--no-pager").Output()
	return bytes.Count(out, []byte("verdict=inlet")), err
}

// as does something as another user, whom the kernel then shows to the other end of a socket.
func as(uid int, f func() error) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			failed <- errno
			return
		}
		failed <- f()
	}()
	return <-failed
}

// dialAs connects to the socket as another user.
func dialAs(uid int) (c net.Conn, err error) {
	err = as(uid, func() (err error) {
		c, err = net.Dial("unix", inletSocket)
		return err
	})
	return c, err
}

// turnedAway sees that a user who is not allowed gets no greeting.
func turnedAway(uid int) error {
	c, err := dialAs(uid)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, fmt.Sprintf("554 5.7.1 user %d may not send here", uid)) {
		return fmt.Errorf("user %d at the socket is told %q: %w", uid, line, err)
	}
	return nil
}

// bridge is a port behind which is the socket, as user list.
func bridge() (addr string, end func(), err error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := dialAs(userList)
			if err != nil {
				in.Close()
				continue
			}
			work.Go(func() { defer out.Close(); io.Copy(out, in) })
			work.Go(func() { defer in.Close(); io.Copy(in, out) })
		}
	})
	return ln.Addr().String(), func() { ln.Close(); work.Wait() }, nil
}

// stopTold sees that a client which is connected when the milter stops is told where mail goes.
func stopTold(ctx context.Context) error {
	c, err := net.Dial("tcp4", inletPort)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 ") {
		return fmt.Errorf("the inlet greets with %q: %w", line, err)
	}
	if err := run(ctx, "systemctl", "restart", "millrace-milter"); err != nil {
		return err
	}
	line, err := in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "421 4.3.2 ") || !strings.Contains(line, "127.0.0.1 port 25 takes mail") {
		return fmt.Errorf("at its stop the inlet says %q: %w", line, err)
	}
	return nil
}
