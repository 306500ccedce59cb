package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// Sendmail hands a message to Postfix's sendmail(1), as a program on the host
// would. msg may end its lines with LF or CRLF; sendmail(1) makes them LF.
func (p *Postfix) Sendmail(ctx context.Context, from string, rcpts []string, msg []byte) error {
	args := append([]string{"-C", p.Config(), "-i", "-f", from, "--"}, rcpts...)
	return p.command(ctx, bytes.NewReader(msg), "sendmail", args...)
}

// Message is one local copy.
type Message struct {
	From    string // envelope sender, "" for the null sender
	To      string // envelope recipient
	Content []byte // as delivered, lines ending in LF, without the fields that delivery puts on top
}

// Mailbox returns the local copies for one address, oldest first.
func (p *Postfix) Mailbox(addr string) ([]Message, error) {
	return readMailbox(filepath.Join(p.dir, "mail", "box"), addr)
}

// parseLocal takes off the fields that local delivery puts on top: virtual(8)
// three, the others two of them.
func parseLocal(b []byte) Message {
	var m Message
	for {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		name, value, colon := strings.Cut(string(line), ": ")
		if !ok || !colon {
			break
		}
		switch name {
		case "Return-Path":
			m.From = strings.Trim(value, "<>")
		case "X-Original-To":
		case "Delivered-To":
			m.To = value
		default:
			m.Content = b
			return m
		}
		b = rest
	}
	m.Content = b
	return m
}

// QueueEntry is a message in Postfix's queue, as postqueue -j shows it.
type QueueEntry struct {
	Queue      string `json:"queue_name"`
	ID         string `json:"queue_id"`
	Sender     string `json:"sender"`
	Size       int64  `json:"message_size"` // bytes
	Recipients []struct {
		Address     string `json:"address"`
		DelayReason string `json:"delay_reason"`
	} `json:"recipients"`
}

// Queued lists Postfix's queue.
func (p *Postfix) Queued(ctx context.Context) ([]QueueEntry, error) {
	out, err := p.output(ctx, nil, "postqueue", "-c", p.Config(), "-j")
	if err != nil {
		return nil, err
	}
	var all []QueueEntry
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e QueueEntry
		if err := d.Decode(&e); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("postqueue -j: %w", err)
		}
		all = append(all, e)
	}
}

// QueueLength is the number of messages in Postfix's queue.
func (p *Postfix) QueueLength(ctx context.Context) (int, error) {
	all, err := p.Queued(ctx)
	return len(all), err
}

// Flush makes Postfix try its deferred mail now.
func (p *Postfix) Flush(ctx context.Context) error {
	return p.command(ctx, nil, "postqueue", "-c", p.Config(), "-f")
}

// LogLines returns the log lines that contain every one of the given texts, a
// queue id for example.
func (p *Postfix) LogLines(texts ...string) ([]string, error) {
	b, err := os.ReadFile(p.Log())
	if err != nil {
		return nil, fmt.Errorf("postfix log: %w", err)
	}
	return logbuf.Lines(string(b), texts...), nil
}

// Until waits until holds says so; it looks every 20 ms. An error of holds or
// the end of ctx ends the wait.
func Until(ctx context.Context, holds func() (bool, error)) error {
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		ok, err := holds()
		if ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
