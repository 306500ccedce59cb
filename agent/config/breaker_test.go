package config

import (
	"strings"
	"testing"
)

func TestBarsAreSharesInPercent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Percent{"": 0, "5%": 0.05, "0.3%": 0.003, "30%": 0.3} {
		if got, err := ParsePercent(text); err != nil || got-want > 1e-12 || want-got > 1e-12 {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"5", "0%", "31%", "-1%", "x%", "%", "1e1%", "NaN%", "Inf%", "0x1p1%", "1.2.3%"} {
		if _, err := ParsePercent(text); err == nil || !strings.Contains(err.Error(), "remedy: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWhomTheBreakerTellsIsAnAddress(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{"": true, "postmaster": true, "ops@example.com": true, "a b": false, "a@b@c": false, "a\r\nBcc: b": false, "A <a@b>": false} {
		l := loader{cfg: defaults(), at: map[string]Notice{"breaker.notify": {File: "millrace.toml", Line: 7}}, bad: map[string]bool{}}
		l.checkBreaker(&Breaker{Notify: text})
		if (len(l.errs) == 0) != ok {
			t.Errorf("%q: %v", text, l.errs)
		}
		if !ok && !strings.Contains(l.errs[0].String(), "millrace.toml:7: ") {
			t.Errorf("%q: %v", text, l.errs)
		}
	}
}
