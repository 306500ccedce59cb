package admin

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// Watch implements control.Backend.
func (b *Backend) Watch(ctx context.Context, q control.WatchQuestion, yield func([]control.WatchLine) error) error {
	if q.Site == "" && q.Recipient == "" && !q.Failed {
		return errors.New("say whose dialogues: of a site, for a recipient, or those that failed")
	}
	var first []control.WatchLine
	if q.Site != "" {
		names, err := b.meant(ctx, q.Site)
		switch {
		case errors.Is(err, control.ErrUnknown): // its first mail may be on its way
			first = []control.WatchLine{{
				Time: time.Now(), From: control.WatchNote, Text: "no site " + q.Site + " is known yet; this waits for one of that name",
			}}
		case err != nil:
			return err
		default:
			q.Sites = names
		}
	}
	w, err := b.dialogues.Watch(q)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := yield(first); err != nil {
		return err
	}
	for {
		lines, err := w.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = yield(lines)
		}
		if err != nil {
			return err
		}
	}
}
