package sim

import (
	"fmt"
	"slices"
	"time"
)

// normal is a receiver without limits, from which most kinds are made.
func normal(change func(*Receiver)) Receiver {
	r := Receiver{RTT: 50 * time.Millisecond, Service: 200 * time.Millisecond, Noise: 0.5}
	change(&r)
	return r
}

// Kinds is the catalogue, in the order of a report.
func Kinds() []Kind {
	var list []Kind
	for _, group := range [][]Kind{connections(), rates(), troubled(), penalties(), changes(), endings(), beside()} {
		list = append(list, group...)
	}
	for i := range list {
		k := &list[i]
		if k.Length == 0 {
			k.Length = 15 * time.Minute
		}
		if k.Learning == 0 {
			k.Learning = time.Minute
		}
	}
	return list
}

// connections are receivers that take so many connections and no more.
func connections() (list []Kind) {
	for _, n := range []int{1, 2, 5, 13, 40, 100} {
		k := Kind{Name: fmt.Sprintf("limit of %d", n), Receiver: normal(func(r *Receiver) { r.Limit = Always(float64(n)) })}
		if n == 100 {
			k.Length = 10 * time.Minute // a quarter of a million messages tell enough
		}
		list = append(list, k)
	}
	return append(list,
		Kind{Name: "limit of 40, fast", Length: 10 * time.Minute, Receiver: normal(func(r *Receiver) { r.Service, r.Limit = 50*time.Millisecond, Always(40) })},
		Kind{Name: "limit of 13, slow", Receiver: normal(func(r *Receiver) { r.Service, r.Limit = time.Second, Always(13) })},
		Kind{Name: "limit told at MAIL", Receiver: normal(func(r *Receiver) { r.Limit, r.LimitAt = Always(5), AtMail })},
		Kind{Name: "limit told after the dot", Receiver: normal(func(r *Receiver) { r.Limit, r.LimitAt = Always(10), AtDot })},
		Kind{Name: "slots freed 1 s late", Receiver: normal(func(r *Receiver) { r.Limit, r.Lag = Always(10), time.Second })},
		Kind{Name: "slots freed 3 s late", Receiver: normal(func(r *Receiver) { r.Limit, r.Lag = Always(9), 3*time.Second })},
		Kind{Name: "5 hosts of 1, slots freed 4 s late", Receiver: normal(func(r *Receiver) {
			r.Hosts, r.HostLimit, r.Lag, r.Drop = 5, slices.Repeat([]int{1}, 5), 4500*time.Millisecond, 0.02
		})},
		Kind{Name: "slower with load", Receiver: normal(func(r *Receiver) { r.Capacity = 10 })},
		Kind{Name: "one message at a time", Receiver: normal(func(r *Receiver) { r.Capacity = 1 })},
		Kind{Name: "1 message a connection", Receiver: normal(func(r *Receiver) { r.Limit, r.PerConnection, r.Close = Always(40), 1, true })},
		Kind{Name: "silent while full", Receiver: normal(func(r *Receiver) { r.Hosts, r.Limit, r.PerConnection, r.Silent = 1, Always(10), 10, true })},
		Kind{Name: "port closed while full", Receiver: normal(func(r *Receiver) { r.Hosts, r.Limit, r.PerConnection, r.Closed = 1, Always(10), 10, true })},
		Kind{Name: "refuses all at first", Receiver: normal(func(r *Receiver) { r.Limit, r.Busy = Always(10), Always(1).Then(5*time.Second, 0) })},
		Kind{Name: "refuses all for 20 s", Lifted: 5*time.Minute + 20*time.Second, Receiver: normal(func(r *Receiver) {
			r.Limit, r.PerConnection, r.Busy = Always(10), 20, Always(0).Then(5*time.Minute, 1).Then(5*time.Minute+20*time.Second, 0)
		})},
		Kind{Name: "20 connections a minute", Receiver: normal(func(r *Receiver) { r.Hosts, r.Limit, r.PerConnection, r.Calls = 2, Always(8), 10, 20 }),
			Marks: Marks{Goodput: 0.75, Refusals: 0.06, Why: "a number of connections in a minute is met as a door that is shut, and not learned; max_connection_rate is for it"}},
		Kind{Name: "our own ceiling of 7", Sessions: 7, Receiver: normal(func(*Receiver) {})},
		Kind{Name: PostfixExperiment, Sessions: 20, Receiver: normal(func(r *Receiver) { r.Limit = Always(5) })},
	)
}

// PostfixExperiment is the name of the kind that repeats the experiment of
// Postfix's SCHEDULER_README: a client limit of 20 against a server limit of 5,
// where 49.7, 24.5 or 16.5% of the mail is deferred on the first pass, by the
// feedback that is chosen.
const PostfixExperiment = "client 20, server 5"

// rates are receivers that count messages.
func rates() []Kind {
	return []Kind{
		{Name: "1 message/s", Sessions: 20, Receiver: normal(func(r *Receiver) { r.Rate = Always(1) })},
		{Name: "20 messages/s", Sessions: 20, Receiver: normal(func(r *Receiver) { r.Rate = Always(20) })},
		{Name: "100 messages/s", Learning: 2 * time.Minute, Receiver: normal(func(r *Receiver) { r.Rate = Always(100) })},
		// The pace must be right at once, not after a minute.
		{Name: "300 messages/s, fast", Learning: 2 * time.Second, Length: 20 * time.Second, Receiver: Receiver{RTT: 5 * time.Millisecond, Service: 10 * time.Millisecond, Noise: 0.5, Rate: Always(300)}},
		{Name: "10 messages/s and host", Receiver: normal(func(r *Receiver) { r.Rate, r.RatePerHost = Always(10), true })},
		{Name: "9 messages/s and host, cut, lag 2s", Receiver: Receiver{
			Hosts: 3, HostLimit: []int{3, 3, 3}, RTT: 10 * time.Millisecond, Service: 25 * time.Millisecond, Noise: 0.5, Lag: 2 * time.Second,
			Rate: Always(9), RatePerHost: true, RateEnds: true,
		}, Marks: Marks{Start: 90, Why: "a lag is 44 transaction times, and all places lag after the burst that shows the rate"}},
		{Name: "1% too fast by chance", Sessions: 20, Receiver: normal(func(r *Receiver) { r.Moody = 0.01 }),
			Marks: Marks{Refusals: 0.012, Why: "the receiver refuses as many at any rate"}},
		{Name: "8% too fast by chance", Sessions: 20, Receiver: normal(func(r *Receiver) { r.Moody = 0.08 }),
			Marks: Marks{Refusals: 0.1, Why: "the receiver refuses as many at any rate"}},
		{Name: "3% too fast by chance, 2 hosts", Receiver: normal(func(r *Receiver) {
			r.Hosts, r.Limit, r.Service, r.Moody, r.MoodyLate = 2, Always(8), 300*time.Millisecond, 0.03, true
		}), Marks: Marks{Refusals: 0.045, Why: "the receiver refuses as many at any rate"}},
		{Name: "3% too fast by chance, 1 message", Receiver: normal(func(r *Receiver) {
			r.Hosts, r.Limit, r.Service, r.Moody, r.MoodyLate, r.RateEnds = 1, Always(4), 300*time.Millisecond, 0.03, true, true
			r.PerConnection, r.Close = 1, true
		}), Marks: Marks{Refusals: 0.045, Why: "the receiver refuses as many at any rate"}},
		{Name: "30 messages/s, 10 connections", Receiver: normal(func(r *Receiver) { r.Rate, r.Limit = Always(30), Always(10) })},
		{Name: "quota", Length: time.Hour, Lifted: 40 * time.Minute, Receiver: normal(func(r *Receiver) { r.Limit, r.Quota, r.Day = Always(10), 12000, 20*time.Minute })},
		{Name: "rate lifted", Lifted: 5 * time.Minute, Sessions: 10, Receiver: normal(func(r *Receiver) { r.Rate = Always(10).Then(5*time.Minute, 1e6) })},
	}
}

// troubled are sites of which some hosts are in trouble.
func troubled() []Kind {
	limited := func(change func(*Receiver)) Receiver {
		return normal(func(r *Receiver) { r.Limit = Always(20); change(r) })
	}
	return []Kind{
		{Name: "1 of 4 hosts dead", Receiver: limited(func(r *Receiver) { r.Dead = 1 })},
		{Name: "3 of 4 hosts dead", Receiver: limited(func(r *Receiver) { r.Dead = 3 })},
		{Name: "1 of 4 hosts refuses", Receiver: limited(func(r *Receiver) { r.Full = 1 })},
		{Name: "2 of 4 hosts refuse", Receiver: limited(func(r *Receiver) { r.Full = 2 }),
			Marks: Marks{Start: 32, Why: "in one run of six both first connects are refused, and with nothing up a destination is left alone for 5 s, 20 transaction times; growth takes 10 more"}},
		{Name: "1 of 4 hosts hangs", Receiver: limited(func(r *Receiver) { r.Hanging = 1 })},
		{Name: "3 of 4 hosts hang", Receiver: limited(func(r *Receiver) { r.Hanging = 3 }),
			Marks: Marks{Start: 36, Why: "a SYN that was lost comes again after 1 s, so that a host hangs is known after 2 s; each of the three, having no connection, is called before a second one is opened to the fourth: 6 s, 24 transaction times, at worst; growth takes 10 more"}},
		{Name: "outage of 3 minutes", Lifted: 8 * time.Minute, Receiver: limited(func(r *Receiver) {
			r.Down = Always(0).Then(5*time.Minute, 1).Then(8*time.Minute, 0)
		})},
	}
}

// penalties are receivers that punish each refusal, harder each time.
func penalties() (list []Kind) {
	const forget = 5 * time.Minute
	for _, ban := range []time.Duration{time.Second, 5 * time.Second, 30 * time.Second} {
		for _, n := range []float64{10, 20} {
			list = append(list, Kind{
				Name: fmt.Sprintf("limit of %.0f, refusal bans %v", n, ban), Length: 40 * time.Minute, Learning: 10 * time.Minute,
				Receiver: normal(func(r *Receiver) { r.Limit, r.Ban, r.Forget = Always(n), ban, forget }),
			})
		}
	}
	return append(list,
		Kind{Name: "refusal takes 1 of 10", Length: 40 * time.Minute, Learning: 10 * time.Minute,
			Receiver: normal(func(r *Receiver) { r.Limit, r.Shrink, r.Forget = Always(10), 1, forget })},
		Kind{Name: "refusal takes 3 of 20", Length: 40 * time.Minute, Learning: 10 * time.Minute,
			Receiver: normal(func(r *Receiver) { r.Limit, r.Shrink, r.Forget = Always(20), 3, forget })},
	)
}

// changes are limits that are lowered and lifted.
func changes() (list []Kind) {
	// Where the first probes are over; and, below, right after one of them, when
	// nothing has come up since.
	const between, lifted = 5*time.Minute + 12*time.Second, 10 * time.Minute
	for _, n := range []float64{8, 20, 80} {
		list = append(list, Kind{
			Name: fmt.Sprintf("limit %.0f, %.0f, %.0f", n, n/4, n), Lifted: lifted,
			Receiver: normal(func(r *Receiver) { r.Limit = Always(n).Then(between, n/4).Then(lifted, n) }),
		})
	}
	for _, n := range []float64{8, 20, 80} {
		list = append(list, Kind{
			Name: fmt.Sprintf("limit %.0f, %.0f after a probe, %.0f", n, n/4, n), Lowered: n / 4, Lifted: lifted,
			Receiver: normal(func(r *Receiver) { r.Limit = Always(n) }),
		})
	}
	return list
}

// endings are receivers that end connections and defer messages as a matter of course.
func endings() []Kind {
	return []Kind{
		{Name: "421 after 20 messages", Receiver: normal(func(r *Receiver) { r.Limit, r.PerConnection = Always(10), 20 })},
		{Name: "close after 20 messages", Receiver: normal(func(r *Receiver) { r.Limit, r.PerConnection, r.Close = Always(10), 20, true })},
		{Name: "421 after 5 messages", Receiver: normal(func(r *Receiver) { r.Limit, r.PerConnection = Always(10), 5 })},
		{Name: "close after 5 messages", Receiver: normal(func(r *Receiver) { r.Limit, r.PerConnection, r.Close = Always(10), 5, true })},
		{Name: "greylisting", Learning: 3 * time.Minute,
			Marks: Marks{Start: 250, Why: "no message is accepted before it has waited for the receiver's minute, which is 240 transaction times; from then on it takes 2"}, Receiver: normal(func(r *Receiver) { r.Limit, r.Greylist = Always(10), time.Minute })},
		{Name: "suspension", Suspended: Span{2 * time.Minute, 12 * time.Minute}, Lifted: 12 * time.Minute,
			Receiver: normal(func(r *Receiver) { r.Limit = Always(10) })},
	}
}

// beside are sites to which others of this machine send, too.
func beside() (list []Kind) {
	list = append(list,
		Kind{Name: "3 source addresses", Sources: 3, Receiver: normal(func(r *Receiver) { r.Limit = Always(10) })},
		Kind{Name: "3 sources share a limit of 30", Sources: 3, Receiver: normal(func(r *Receiver) { r.Limit, r.Shared = Always(30), true })},
	)
	for _, x := range []struct {
		limit float64
		every time.Duration
	}{{10, 300 * time.Millisecond}, {20, 200 * time.Millisecond}, {5, 2 * time.Second}} {
		list = append(list, Kind{
			Name: fmt.Sprintf("host sends every %v, limit of %.0f", x.every, x.limit), HostEvery: x.every, Length: 30 * time.Minute, Learning: 2 * time.Minute,
			Receiver: normal(func(r *Receiver) { r.Limit = Always(x.limit) }),
		})
	}
	return append(list, Kind{ // slow, so that two hours are not too many messages
		Name: "host sends every 20s, limit of 10", HostEvery: 20 * time.Second, Length: 2 * time.Hour, Learning: 2 * time.Minute,
		Receiver: normal(func(r *Receiver) { r.Service, r.Limit = time.Second, Always(10) }),
	})
}
