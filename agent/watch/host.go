package watch

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/postconf"
)

// settingsEvery is how often the host's Postfix is asked for its settings anew:
// an admin who changes main.cf tells Postfix, not us.
const settingsEvery = 5 * time.Minute

// SettingsLoop keeps what /readyz says of the host: which settings of Postfix
// diverted mail passes by, though nobody has accepted it. That is asked at the
// start, after a reload, and every some minutes. Nothing waits for the answer,
// and a host without Postfix, or a milter that only observes, has nothing to say.
func (w *Watch) SettingsLoop(ctx context.Context) {
	tick := time.NewTicker(settingsEvery)
	defer tick.Stop()
	failing := false
	for {
		cfg := w.settings.Now().Config
		found, inlet, err := unaccepted(ctx, cfg)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			// The findings of before stay: a setting does not go away by this.
			w.log.Warn("Postfix's settings cannot be read, so /readyz does not show which of them diverted mail passes by", "err", err)
		case err == nil:
			w.noteBypasses(slices.Concat(found, inlet))
			if cfg == w.settings.Now().Config { // nobody has changed what is accepted meanwhile
				w.inletBypassed.Store(&inlet)
			}
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.reloaded:
		}
	}
}

// noteBypasses replaces what /readyz says, and logs what is new in it.
func (w *Watch) noteBypasses(found []string) {
	var before []string
	if p := w.bypassed.Load(); p != nil {
		before = *p
	}
	for _, text := range found {
		if !slices.Contains(before, text) {
			w.log.Warn("diverted mail passes by a setting of Postfix", "bypass", text)
		}
	}
	w.bypassed.Store(&found)
}

// unaccepted asks Postfix; none is no error. postconf.Read has a deadline.
func unaccepted(ctx context.Context, c *config.Config) (found, inlet []string, err error) {
	if c.Milter.Mode != config.Divert {
		return nil, nil, nil
	}
	host, err := postconf.Read(ctx, "")
	if errors.Is(err, postconf.ErrNone) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, f := range host.Bypassed(c) {
		found = append(found, f.String())
	}
	for _, f := range host.InletStops(c) {
		inlet = append(inlet, f.String())
	}
	return found, inlet, nil
}
