package warmup

import "fmt"

// Bars are the shares of a day's mail above which it was no good day; 0: none is.
type Bars struct {
	Deferrals   float64 // refused for reputation or for volume, of all tries
	HardBounces float64 // of what was accepted or bounced so
	Complaints  float64 // of what the provider accepted of a day's mail from all addresses, of that about which some came
}

// Day is one day of a course.
type Day struct {
	Date  string `json:"date"`
	Step  int    `json:"step"` // of the plan, from 0
	Share int    `json:"share"`
	Used  int    `json:"used"` // recipients that were tried for the first time, when the day was over
	// What became of them and of those that were tried again:
	Attempts    int `json:"attempts,omitempty"` // without those that met a greylist
	Accepted    int `json:"accepted,omitempty"`
	Deferrals   int `json:"deferrals,omitempty"` // for reputation or volume
	HardBounces int `json:"hard_bounces,omitempty"`
	// Complaints are those about the mail of all addresses of which some came on that day.
	Complaints int `json:"complaints,omitempty"`
	// Last is the last day with mail: this one, or where the address is warm from it on, a later one.
	Last string `json:"last,omitempty"`
	// Warm says that the course came to its end: from that day on there is no share.
	Warm bool `json:"warm,omitempty"`
	// Limited says that there was mail for which there was no room.
	Limited bool `json:"limited,omitempty"`
	// Verdict says why the course did not go on after that day; "" if it did, or the day is not over.
	Verdict string `json:"verdict,omitempty"`
	// Bad says that it was a bad day, not one with too little mail.
	Bad bool `json:"bad,omitempty"`
}

const (
	// few is how many tries a day needs to be judged, or half of its share if that is less: what
	// SendGrid sends in the first hour (Standard).
	few = 20
	// farAbove is how many times a bar takes a course a day back.
	farAbove = 3
)

// judge says which step of a plan follows a day that is over, and notes why.
//
// A day was used if half of its share was, or if there was mail for which there was no room: a
// campaign that is sent within an hour never meets more than some hours' parts of a share. One
// bounce or complaint alone is no rate, whatever the share. Where no complaint was ever seen
// there is none to count.
func (w *Warmup) judge(c *course, d *Day, p Plan) int {
	stay := func(step int, format string, args ...any) int {
		d.Verdict = fmt.Sprintf(format, args...)
		return step
	}
	s := w.provider(c.Provider).worst(d.Date)
	d.Verdict, d.Bad, d.Complaints = "", false, w.complaints(c.Provider, d.Date)
	if d.Attempts < max(1, min(few, d.Share/2)) {
		return stay(d.Step, "too little mail to judge: %d tries", d.Attempts)
	}
	step := d.Step
	for _, x := range [...]struct {
		n, of int
		bar   float64
		what  string
	}{
		{d.Deferrals, d.Attempts, p.Bars.Deferrals, "refused for reputation or volume"},
		{d.HardBounces, d.Accepted + d.HardBounces, p.Bars.HardBounces, "bounced hard"},
		{s.Complaints, s.Accepted, p.Bars.Complaints, "who got mail of " + s.Date + " complained"},
	} {
		if x.bar == 0 || x.n < 2 || float64(x.n) <= x.bar*float64(x.of) {
			continue
		}
		d.Bad = true
		back := ""
		if float64(x.n) > farAbove*x.bar*float64(x.of) {
			step, back = max(0, d.Step-1), ", a day back"
		}
		stay(0, "%d of %d %s, more than %.3g%%%s", x.n, x.of, x.what, 100*x.bar, back)
		if step < d.Step {
			break
		}
	}
	switch {
	case d.Bad:
		return step
	case !d.Limited && 2*d.Used < d.Share:
		return stay(d.Step, "its share was not used: %d of %d", d.Used, d.Share)
	}
	return d.Step + 1
}

// Standard is the plan "standard": the hours of Twilio SendGrid's automated warm-up ("Automated
// IP warmup hourly send schedule", https://www.twilio.com/docs/sendgrid/concepts/reputation/warm-up-ip-addresses,
// read on 29 Nov 2026: 20 in an hour on the first day, then 1.4 times as many each day), 24 of them
// for a day, up to its day 29; from then on, 8 million a day, an address is warm. SendGrid counts an address's
// mail to all receivers together, a plan here that to each provider. The same page has an
// address that has sent nothing for more than 30 days warm up again.
//
// The bars are no standard's. For bounces and complaints they are those from which another
// shipped warm-up lets a day count (https://sendbolt.rahstack.dev/docs/operations/warmup: below 3%
// and 0.1%). Nobody publishes one for deferrals: 5% is our own.
func Standard() Plan {
	hours := []int{
		20, 28, 39, 55, 77, 108, 151, 211, 295, 413, 579, 810, 1000, 1587, 2222, 3111, 4356, 6098, 8583, 11953,
		16734, 23427, 32798, 45917, 64284, 89998, 125997, 176395, 246953, 345735,
	}
	days := make([]int, len(hours))
	for i, n := range hours {
		days[i] = 24 * n
	}
	return Plan{Name: "standard", Days: days, Bars: Bars{Deferrals: 0.05, HardBounces: 0.03, Complaints: 0.001}}
}
