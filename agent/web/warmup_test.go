package web

import (
	"strings"
	"testing"
)

// A course is drawn as two lines over its days, plan and done, on one scale; a single day is seen,
// too.
func TestWarmupIsDrawnByDays(t *testing.T) {
	t.Parallel()
	c := drawDays("warmup-0", "192.0.2.26 to google", []WarmupDay{{"2026-11-27", 50, 48}, {"2026-11-28", 100, 25}})
	if len(c.Lines) != 2 || c.Lines[0].Path != "M250 50 L750 0" || c.Lines[1].Path != "M250 52 L750 75" || c.Top != "100" || c.Start != "2026-11-27" {
		t.Errorf("%+v", c)
	}
	if len(c.Rows) != 2 || c.Rows[0].At != "2026-11-28" || strings.Join(c.Rows[0].Values, " ") != "100 25" || !strings.HasSuffix(c.Summary, "Today: 25 of 100.") {
		t.Errorf("%+v", c)
	}
	if one := drawDays("x", "t", []WarmupDay{{"2026-11-28", 100, 50}}); one.Lines[1].Path != "M375 50 L625 50" {
		t.Errorf("%+v", one.Lines)
	}
	if none := drawDays("x", "t", nil); none.Lines[0].Path != "" {
		t.Errorf("%+v", none)
	}
}
