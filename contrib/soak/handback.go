package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// full has Postfix's hand-back port refuse whoever comes.
func (s *scene) full() error {
	return s.relay.Answer(func(c net.Conn) {
		_, _ = io.WriteString(c, "421 4.3.2 mail.lab.test Error: too many connections\r\n")
	})
}

// absent closes the hand-back port.
func (s *scene) absent() error {
	s.relay.Leave()
	return nil
}

// present passes connections on to Postfix.
func (s *scene) present() error { return s.relay.Pass(s.Postfix.HandbackAddr()) }

// handback is a fault of the hand-back port alone. Connections under way go on.
func handback(trouble func(*scene) error) func(context.Context, *scene, time.Duration, uint64) error {
	return func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
		err := trouble(s)
		wait(ctx, lasts)
		return errors.Join(err, s.present())
	}
}
