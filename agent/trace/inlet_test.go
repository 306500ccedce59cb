package trace

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The mark of the inlet says that a message was judged just now, and is no loop mark.
func TestInletsMarkIsOfTheMoment(t *testing.T) {
	t.Parallel()
	key, now := []byte("a key"), time.Unix(1_800_000_000, 0)
	field := string(Passed(&Hop{Helo: "app", By: "h.example", Protocol: "ESMTP", ID: "I1-2", At: now, For: "a@b.example", Judged: true}, key))
	v := strings.TrimPrefix(field, "Received:")
	if !strings.Contains(field, " (Millrace inlet) with ESMTP\r\n") {
		t.Errorf("%s", field)
	}
	if !Judged(v, key, now.Add(time.Minute)) {
		t.Errorf("not known: %s", field)
	}
	if Judged(v, key, now.Add(time.Hour)) {
		t.Error("known for ever: whoever reads an archive could have mail not counted")
	}
	if Judged(v, []byte("another"), now) || Judged(strings.Replace(v, "I1", "I2", 1), key, now) {
		t.Error("anybody can write it")
	}
	if Marked(v, key) {
		t.Error("taken for mail that was here before: the milter would not divert it")
	}
	plain := string(Passed(&Hop{Helo: "x\r\ny", Client: netip.MustParseAddr("::1"), By: "h", ID: "I1", At: now}, key))
	if Judged(plain, key, now) || !strings.Contains(plain, "from x??y (localhost [IPv6:::1])") || strings.Contains(plain, "for <") {
		t.Errorf("%s", plain)
	}
}
