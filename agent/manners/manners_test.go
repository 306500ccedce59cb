package manners

import (
	"net/netip"
	"testing"
	"time"
)

var (
	now  = time.Unix(1_000_000, 0)
	odd  = Endpoint{"mx.test", netip.MustParseAddrPort("192.0.2.1:25")}
	near = []Endpoint{{"mx2.test", odd.Addr}, {"", odd.Addr}, {"mx.test", netip.MustParseAddrPort("192.0.2.1:26")}}
)

// Each failure does without more, and all of it is tried again a quarter of an hour after
// the first.
func TestTLSIsGivenUpStepByStepForAWhile(t *testing.T) {
	t.Parallel()
	for _, certificate := range []bool{true, false} {
		m := New()
		want := []TLS{NoCertificate, SmallHello, Clear}
		if !certificate {
			want = want[1:]
		}
		tried := Whole
		for i, w := range want {
			next, ok := m.TLSFailed(odd, tried, certificate, now.Add(time.Duration(i)*time.Minute))
			if next != w || !ok {
				t.Fatalf("after %q: %q, %v", tried, next, ok)
			}
			tried = next
		}
		if next, ok := m.TLSFailed(odd, Whole, certificate, now.Add(3*time.Minute)); next != Clear || !ok {
			t.Errorf("a connect that began earlier goes on %q, %v", next, ok)
		}
		if got := m.Of(odd, now.Add(tlsFor-1)).TLS; got != Clear {
			t.Errorf("%q before its time is over", got)
		}
		if got := m.Of(odd, now.Add(tlsFor+1)).TLS; got != Whole {
			t.Errorf("%q when it is over", got)
		}
		for _, other := range near {
			if m.Of(other, now) != (Manner{}) || m.TLSWanted(other) {
				t.Errorf("said of %v, too", other)
			}
		}
	}
}

// A host whose connections break behind the handshake is spoken to in the clear when that has
// lasted, though each handshake works.
func TestTLSThatBreaksLaterIsGivenUpForAWhile(t *testing.T) {
	t.Parallel()
	m := New()
	for d := time.Duration(0); d < trustFor; d += time.Minute {
		m.TLSWorked(odd, Whole, now.Add(d))
		if m.TLSBroke(odd, now.Add(d)) || m.Of(odd, now.Add(d)) != (Manner{}) {
			t.Errorf("given up after %v", d)
		}
	}
	at := now.Add(trustFor)
	if !m.TLSBroke(odd, at) || m.Of(odd, at).TLS != Clear || m.Of(odd, at.Add(tlsFor-1)).TLS != Clear {
		t.Error("not given up")
	}
	if got := m.Of(odd, at.Add(tlsFor+1)).TLS; got != Whole {
		t.Errorf("%q when it is over", got)
	}
	if at = at.Add(tlsFor + 2); !m.TLSBroke(odd, at) {
		t.Error("the same trouble is waited for again")
	}
	m.TLSWanted(odd)
	m.TLSBroke(odd, at)
	m.TLSHeld(odd)
	if m.TLSBroke(odd, at.Add(trustFor)) {
		t.Error("what held in between counts for nothing")
	}
	if m.TLSBroke(odd, at.Add(trustFor+troubleFor+1)) {
		t.Error("it breaks seldom")
	}
}

// A host where TLS worked within a week is spoken to in the clear only when its trouble
// has lasted as long as smtp(8) waits.
func TestTroubleOfAHostThatCanDoTLSMayPass(t *testing.T) {
	t.Parallel()
	m := New()
	m.TLSWorked(odd, Whole, now)
	at := now.Add(workedFor - time.Hour)
	small := func(at time.Time) {
		t.Helper()
		if next, ok := m.TLSFailed(odd, Whole, false, at); next != SmallHello || !ok {
			t.Fatalf("%q, %v: a smaller ClientHello takes nothing away", next, ok)
		}
	}
	small(at)
	for _, d := range []time.Duration{0, trustFor - 1} {
		if next, ok := m.TLSFailed(odd, SmallHello, false, at.Add(d)); ok {
			t.Errorf("%q after %v", next, d)
		}
	}
	if next, ok := m.TLSFailed(odd, SmallHello, false, at.Add(trustFor)); next != Clear || !ok {
		t.Errorf("%q, %v when it has lasted", next, ok)
	}
	m.TLSWorked(odd, Whole, at.Add(time.Hour))
	at = at.Add(2 * time.Hour)
	small(at)
	if next, ok := m.TLSFailed(odd, SmallHello, false, at); ok {
		t.Errorf("%q at the first failure after it worked again", next)
	}
	at = at.Add(workedFor)
	small(at)
	if next, ok := m.TLSFailed(odd, SmallHello, false, at); next != Clear || !ok {
		t.Errorf("%q, %v a week after it worked", next, ok)
	}
}

func TestWhatWasFoundEndsAtItsTime(t *testing.T) {
	t.Parallel()
	m := New()
	m.NoChunking(odd, now)
	m.TooMany(odd, 7, now)
	if got := m.Of(odd, now.Add(recipientsFor-1)); got != (Manner{ByData: true, Recipients: 7}) {
		t.Errorf("%+v", got)
	}
	if got := m.Of(odd, now.Add(recipientsFor)); got != (Manner{ByData: true}) {
		t.Errorf("%+v", got)
	}
	if got := m.Of(odd, now.Add(byDataFor+1)); got != (Manner{}) || len(m.states) != 0 {
		t.Errorf("%+v, %d states", got, len(m.states))
	}
	for _, other := range near {
		if m.Of(other, now) != (Manner{}) {
			t.Errorf("said of %v, too", other)
		}
	}
}

func TestMemoriesAreBounded(t *testing.T) {
	t.Parallel()
	m := New()
	a := netip.MustParseAddr("2001:db8::")
	for range maxWorked + 100 {
		a = a.Next()
		at := Endpoint{"mx.test", netip.AddrPortFrom(a, 25)}
		m.NoChunking(at, now)
		m.TLSWorked(at, Whole, now)
		if !m.Of(at, now).ByData {
			t.Fatal("the latest is not remembered")
		}
	}
	if len(m.states) > maxStates || len(m.worked) > maxWorked {
		t.Errorf("%d and %d remembered", len(m.states), len(m.worked))
	}
}
