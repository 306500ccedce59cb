package spool

import (
	"testing"
	"time"
)

// TestWhereMailWasBeforeIsKept, with a pool and a former name and without.
func TestWhereMailWasBeforeIsKept(t *testing.T) {
	t.Parallel()
	for _, e := range []Envelope{
		{Stream: "acme", Moved: "a/20260101-000000-00/1/M1-11000"},
		{Stream: "acme", Formerly: "r-77:acme", Pool: "warm", Moved: "a/t/1/M1-11000"},
		{Stream: "acme", Pool: "warm"},
		{Moved: "a/t/1/M1-11000"},
	} {
		e.Arrived, e.Recipients = time.Unix(1, 0), []Recipient{{Address: "c@d.example"}}
		got, err := DecodeEnvelope(EncodeEnvelope(&e))
		if err != nil || got.Stream != e.Stream || got.Formerly != e.Formerly || got.Pool != e.Pool || got.Moved != e.Moved {
			t.Errorf("%+v came back as %+v, %v", e, got, err)
		}
	}
}

// TestFormerNameOfAStreamIsKept has it in the envelope and over a delta of a footer, and a
// name without one in the octets of before.
func TestFormerNameOfAStreamIsKept(t *testing.T) {
	t.Parallel()
	with := Envelope{Sender: "a@b.example", Stream: "acme", Formerly: "r-77:acme", Arrived: time.Unix(1, 0), Recipients: []Recipient{{Address: "c@d.example"}}}
	without := with
	without.Formerly = ""
	for _, e := range []Envelope{with, without} {
		got, err := decodeEnvelope(appendEnvelope(nil, &e))
		if err != nil || got.Stream != e.Stream || got.Formerly != e.Formerly {
			t.Errorf("%+v came back as %+v, %v", e, got, err)
		}
	}
	if same, _, ok := envelopeDelta(appendEnvelope(nil, &with), appendEnvelope(nil, &without)); !ok || same&(1<<3) != 0 {
		t.Errorf("streams are the same to a footer that differ in their former names: %b, %v", same, ok)
	}
	before := without
	before.Stream = "acme\tr-77:acme" // what an agent of before reads, a name that nobody ordered anything of
	if got, err := decodeEnvelope(appendEnvelope(nil, &before)); err != nil || got.Stream != "acme" || got.Formerly != "r-77:acme" {
		t.Errorf("%+v, %v", got, err)
	}
}
