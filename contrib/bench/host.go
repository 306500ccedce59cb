package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/rig"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// stall is how long a measurement that ought to end by itself may take.
const stall = 10 * time.Minute

// answers is how long another program may take to start or to write its log.
const answers = 2 * time.Minute

// world says what a measurement runs on. Nil parts are left out.
type world struct {
	providers []sink.Provider
	postfix   *lab.PostfixOptions
	millrace  *lab.MillraceOptions
	null      nullVerdict // a null milter in place of Millrace's
	asleep    bool        // the agent is not started

	accepted func(*sink.Message) // called for each message that arrives
}

// host is a running world, new for each measurement.
type host struct {
	rig.Rig
	null *nullMilter
	idle cost // CPU time of getting ready
	sent ledger.Ledger
	into string // where mail is injected; "": into Postfix
}

func start(ctx context.Context, w world) (_ *host, err error) {
	h := &host{}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if w.providers != nil {
		if err := h.StartInternet(sink.Options{DNS: lab.Resolver + ":53", Message: w.accepted}, w.providers...); err != nil {
			return nil, err
		}
	}
	if w.postfix != nil {
		o := *w.postfix
		if w.millrace != nil || w.null != "" {
			o.Milter = lab.RelativeSocket
		}
		if err := h.StartPostfix(ctx, o); err != nil {
			return nil, err
		}
	}
	if w.null != "" {
		socket := filepath.Join(h.Postfix.Queue(), strings.TrimPrefix(lab.RelativeSocket, "unix:"))
		if h.null, err = startNullMilter(ctx, w.null, socket); err != nil {
			return nil, err
		}
	}
	if w.millrace != nil {
		if err := h.NewMillrace(*w.millrace); err != nil {
			return nil, err
		}
		if !w.asleep {
			if err := h.Millrace.Agent.Start(ctx); err != nil {
				return nil, err
			}
		}
		if h.Postfix != nil {
			if err := h.Millrace.Milter.Start(ctx); err != nil {
				return nil, err
			}
		}
	}
	h.idle = h.used()
	return h, nil
}

// cost is CPU time, user and system, of everything that belongs to the service.
type cost struct{ postfix, milter, sender time.Duration }

func (c cost) total() time.Duration { return c.postfix + c.milter + c.sender }

func (c cost) minus(d cost) cost {
	return cost{c.postfix - d.postfix, c.milter - d.milter, c.sender - d.sender}
}

// per is the cost of one of n messages.
func (c cost) per(n int) cost {
	k := time.Duration(n)
	return cost{c.postfix / k, c.milter / k, c.sender / k}
}

func (h *host) used() cost {
	var c cost
	if h.Postfix != nil {
		c.postfix = h.Postfix.CPU()
	}
	if h.null != nil {
		c.milter = h.null.cpu()
	}
	if h.Millrace != nil {
		c.milter = h.Millrace.Milter.CPU()
		c.sender = h.Millrace.Agent.CPU()
	}
	return c
}

// kill ends all programs and gives the CPU time they used since they were
// ready. Only dead processes tell theirs exactly: live ones do so in steps of
// 10 ms each, and Postfix has a hundred.
func (h *host) kill() cost {
	if h.Postfix != nil {
		h.Postfix.Kill()
	}
	if h.null != nil {
		h.null.kill()
	}
	if h.Millrace != nil {
		h.Millrace.Milter.Kill()
		h.Millrace.Agent.Kill()
	}
	return h.used().minus(h.idle)
}

func (h *host) close() error {
	h.kill()
	return h.Close()
}

// labID is the id that the injector gave to a message.
func labID(content []byte) string {
	_, rest, _ := bytes.Cut(content, []byte(ledger.IDHeader+": "))
	id, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(id)
}

// joinClose closes the host of a measurement and adds its error.
func joinClose(err error, h *host) error { return errors.Join(err, h.close()) }

// inject sends the messages from to from+n-1 into Postfix and returns when
// it has taken all of them.
func (h *host) inject(ctx context.Context, message func(i int) *inject.Message, from, n, connections int) error {
	in := &inject.Injector{Addr: cmp.Or(h.into, h.Postfix.SMTPAddr()), Connections: connections, Ledger: &h.sent}
	r, err := in.Run(ctx, n, func(i int) *inject.Message { return message(from + i) })
	if err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	if r.Messages != n {
		return fmt.Errorf("inject: Postfix took %d of %d messages: %w", r.Messages, n, r.Err)
	}
	return nil
}

// arrived waits until n messages have arrived in all.
func (h *host) arrived(ctx context.Context, n int) error {
	if err := h.Internet.Ledger().Wait(ctx, n); err != nil {
		return fmt.Errorf("not all mail has arrived: %w", err)
	}
	return nil
}

// agree holds the two ledgers against each other: figures of a service that
// loses mail are worth nothing.
func (h *host) agree() error {
	if r := ledger.Compare(&h.sent, h.Internet.Ledger()); !r.Clean() {
		return fmt.Errorf("the ledgers do not agree: %s", r)
	}
	return nil
}

// queueEmpty reports whether Postfix has nothing to do: no file in the queues
// that mail passes through. Reading two directories costs less than postqueue.
func (h *host) queueEmpty() (bool, error) {
	for _, q := range []string{"incoming", "active"} {
		files, err := os.ReadDir(filepath.Join(h.Postfix.Queue(), q))
		if err != nil {
			return false, fmt.Errorf("postfix queue: %w", err)
		}
		if len(files) > 0 {
			return false, nil
		}
	}
	return true, nil
}
