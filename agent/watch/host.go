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
		look := inletLook{cfg: cfg, at: time.Now()}
		found, err := unaccepted(ctx, cfg, &look)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			// The findings of before stay: a setting does not go away by this.
			w.log.Warn("Postfix's settings cannot be read, so /readyz does not show which of them diverted mail passes by", "err", err)
		case err == nil:
			w.noteBypasses(slices.Concat(found, look.stops))
			w.inlet.Store(&look)
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

// inletLook is what was found of the settings that mail of the inlet passes by.
type inletLook struct {
	cfg   *config.Config // as it was then
	at    time.Time      // when the look began
	known bool           // the host was asked, or it is known that there is nothing to ask
	stops []string       // what nobody has accepted
}

// inletLookFor is how long a look counts. Postfix that cannot be asked for so long may have
// been changed to anything.
const inletLookFor = 3 * settingsEvery

// inletStops is what keeps the inlet from spooling, with the configuration of now. Without a
// recent look at the host by that configuration it is not known.
func (w *Watch) inletStops(now time.Time) (stops []string, known bool) {
	look := w.inlet.Load()
	if look == nil || !look.known || look.cfg != w.settings.Now().Config || now.Sub(look.at) > inletLookFor {
		return nil, false
	}
	return look.stops, true
}

// unaccepted asks Postfix; none is no error. postconf.Read has a deadline. In observe mode the
// host is not asked, so nothing is known of the inlet.
func unaccepted(ctx context.Context, c *config.Config, inlet *inletLook) (found []string, err error) {
	if c.Milter.Mode != config.Divert {
		return nil, nil
	}
	host, err := postconf.Read(ctx, "")
	if err != nil && !errors.Is(err, postconf.ErrNone) {
		return nil, err
	}
	stops := postconf.InletWithoutPostfix(c)
	if err == nil {
		stops = host.Inlet(c)
		for _, f := range host.Bypassed(c) {
			found = append(found, f.String())
		}
	}
	inlet.known = true
	for _, f := range postconf.InletStops(stops) {
		inlet.stops = append(inlet.stops, f.String())
	}
	return found, nil
}
