package outcomes

import "testing"

func TestRepliesAreSplitAtWhatIsTheirOwn(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ before, words, after string }{
		{"250 2.0.0 Ok: queued as ", "4fKz1T0Qx9z", ""},
		{"250 2.0.0 Ok: queued as ", "77", ""},
		{"250 2.0.0 OK  ", "1700000000 a1-20020a1c", " - gsmtp"},
		{"550-5.1.1 ", "<bobby@example.com>: bobby", " is unknown"},
		{"421 4.7.0 try again later", "", ""},
		{"", "", ""},
	} {
		reply := x.before + x.words + x.after
		if before, words, after := split(reply, "bobby@example.com"); before != x.before || words != x.words || after != x.after {
			t.Errorf("%q: %q, %q, %q", reply, before, words, after)
		}
	}
}
