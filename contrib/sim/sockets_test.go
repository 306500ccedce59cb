//go:build !race

package sim

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/contrib/lab/sink"
)

// A receiver of this package and the one of package sink must be the same: what a
// controller reaches here is worth something only if sockets bear it out.
func TestSinkAnswersAsTheSimulatedReceiver(t *testing.T) {
	t.Parallel()
	const each = 80
	seen := map[string]int{}
	for _, p := range []Population{Ordinary, Hard} {
		for seed := range uint64(each) {
			k := p.Draw(seed + 1)
			r := k.Receiver
			// Chance has a test of its own; with it no two could go the same way.
			r.Noise, r.Later, r.Drop, r.LagNoise, r.Backends = 0, 0, 0, 0, 0
			// Slots are freed in the middle of a round trip here, at its beginning there.
			r.RTT = 10 * time.Microsecond
			steps, want := playSimulated(r, seed)
			var got []string
			synctest.Test(t, func(t *testing.T) { got = playSink(t, r, steps) })
			for i := range steps {
				seen[want[i]]++
				if got[i] != want[i] {
					t.Errorf("population %d, seed %d, step %d (%v): the sink says %q, the simulation %q\n%s", p, seed+1, i, steps[i], got[i], want[i],
						&Met{Kind: Kind{Receiver: r}})
					break
				}
			}
		}
	}
	t.Log(seen)
	for _, a := range []string{"yes", "refused", "reset", "taken", "taken, end", "enough", "too fast", "too fast, end", "too many", "quit"} {
		if seen[a] < 20 {
			t.Errorf("%q was answered %d times: the schedule tries too little", a, seen[a])
		}
	}
}

// step is what the scripted client does at a time: a connect to a host, or a message on
// the connection of an earlier step, or that one's end.
type step struct {
	at   time.Duration
	what byte // c, m, q
	host int
	conn int // index of the step that opened it
}

func (s step) String() string {
	return fmt.Sprintf("%.3f s %c host %d connection %d", s.at.Seconds(), s.what, s.host, s.conn)
}

// played is a connection of the scripted client.
type played struct {
	number int // of the step that opened it
	at     place
	up     bool
	busy   bool
	n      int

	conn net.Conn
	in   *bufio.Reader
}

// playSimulated draws a script that presses on the receiver's limits, while it plays it.
func playSimulated(r Receiver, seed uint64) (steps []step, answers []string) {
	rng := rand.New(rand.NewPCG(seed, 3))
	c := newClock(1)
	x := newReceiver(r, c, 1)
	var conns []*played
	now := 2 * time.Second // rates have filled their buckets
	for i := range 400 {
		now += 50*r.RTT + time.Duration(rng.ExpFloat64()*float64(r.Transaction())/10)
		if rng.IntN(50) == 0 {
			now += time.Duration(rng.ExpFloat64() * float64(5*time.Second))
		}
		c.run(now)
		var idle []*played
		for _, p := range conns {
			if p.up && !p.busy {
				idle = append(idle, p)
			}
		}
		s, answer := step{at: now, what: 'm'}, ""
		switch rng.IntN(20) {
		case 0, 1, 2, 3:
			s.what = 'c'
		case 4:
			s.what = 'q'
		}
		if len(idle) == 0 {
			s.what = 'c'
		}
		if s.what == 'c' {
			s.host, s.conn = rng.IntN(r.hosts()), i
			p := &played{number: i, at: x.place(0, s.host)}
			conns = append(conns, p)
			switch x.called(p.at) {
			case yes:
				x.enter(p.at)
				p.up = true
				answer = "yes"
			case refusal:
				answer = "refused"
			case reset:
				answer = "reset"
			}
		} else {
			p := idle[rng.IntN(min(len(idle), 3))]
			s.conn = p.number
			if s.what == 'q' {
				x.leave(p.at)
				p.up = false
				answer = "quit"
			} else {
				answer = p.offer(x)
			}
		}
		steps, answers = append(steps, s), append(answers, answer)
	}
	return steps, answers
}

// offer begins a message in the simulation.
func (p *played) offer(x *receiver) string {
	p.n++
	p.busy = true
	a, d := x.offered(p.at, p.n, false)
	x.clock.after(d, func() {
		p.busy = false
		switch a {
		case taken:
			x.done()
		case tooFast:
		case takenEnd:
			x.done()
			fallthrough
		default:
			x.leave(p.at)
			p.up = false
		}
	})
	return map[reply]string{taken: "taken", takenEnd: "taken, end", enough: "enough", tooFast: "too fast",
		tooFastEnd: "too fast, end", tooMany: "too many"}[a]
}

func playSink(t *testing.T, r Receiver, steps []step) []string {
	n, err := sink.New(sink.Options{Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	p, err := r.Provider("p", "*")
	if err == nil {
		err = n.Add(p)
	}
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]string, len(steps))
	conns := map[int]*played{}
	began := time.Now()
	for _, at := range r.Changes() {
		time.AfterFunc(at, func() {
			for h := range r.hosts() {
				_ = n.Change(r.HostName("p", h), func(b *sink.Behaviour) { *b = r.Host(h, at) })
			}
		})
	}
	for i, s := range steps {
		time.Sleep(time.Until(began.Add(s.at)))
		synctest.Wait()
		p := conns[s.conn]
		switch {
		case s.what == 'c':
			p = &played{}
			conns[i] = p
			if p.conn, err = n.Dial(r.HostName("p", s.host)); err != nil {
				t.Fatal(err)
			}
			p.in = bufio.NewReader(p.conn)
			p.busy = true
			go func() {
				answers[i] = p.greet()
				p.up, p.busy = answers[i] == "yes", false
			}()
		case !p.up || p.busy:
			answers[i] = "no such connection, or a message is under way"
		case s.what == 'q':
			p.up = false
			answers[i] = "quit"
			go func() {
				fmt.Fprint(p.conn, "QUIT\r\n")
				p.in.ReadString('\n')
				p.conn.Close()
			}()
		default:
			p.busy = true
			go func() {
				answers[i] = p.send(fmt.Sprintf("user%d@x.test", i))
				p.up, p.busy = answers[i] == "taken" || answers[i] == "too fast" || answers[i] == "later", false
			}()
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	for _, p := range conns {
		p.conn.Close()
	}
	return answers
}

// line gives the next reply's last line; "" at the end.
func (p *played) line() string {
	for {
		line, err := p.in.ReadString('\n')
		if err != nil {
			return ""
		}
		if line[3] != '-' {
			return line
		}
	}
}

func (p *played) greet() string {
	switch banner := p.line(); {
	case banner == "":
		return "reset"
	case !strings.HasPrefix(banner, "220"):
		return "refused"
	}
	fmt.Fprint(p.conn, "EHLO client.test\r\n")
	p.line()
	return "yes"
}

// send sends a message, pipelined, and says how it went, in the words of playSimulated.
func (p *played) send(to string) string {
	fmt.Fprintf(p.conn, "MAIL FROM:<a@b.test>\r\nRCPT TO:<%s>\r\nDATA\r\n", to)
	mail := p.line()
	if !strings.HasPrefix(mail, "250") {
		end := ""
		if strings.HasPrefix(mail, "421") {
			end = ", end"
		} else {
			p.line() // of RCPT and DATA, which had no MAIL before them
			p.line()
		}
		switch {
		case strings.Contains(mail, "Too fast"):
			return "too fast" + end
		case strings.Contains(mail, "Too many messages"):
			return "enough"
		default:
			return "too many"
		}
	}
	rcpt, data := p.line(), p.line()
	if !strings.HasPrefix(rcpt, "250") {
		return "later"
	}
	if !strings.HasPrefix(data, "354") {
		return data
	}
	fmt.Fprint(p.conn, "X-Lab-ID: 1\r\n\r\nx\r\n.\r\n")
	if p.line() == "" {
		return "lost"
	}
	p.conn.SetReadDeadline(time.Now().Add(time.Microsecond))
	defer p.conn.SetReadDeadline(time.Time{})
	if _, err := p.in.ReadByte(); err != nil && !isTimeout(err) {
		return "taken, end"
	}
	return "taken"
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// What is chance in one is chance in the other: the same shares, and the same times.
func TestSinkHasTheChanceOfTheSimulatedReceiver(t *testing.T) {
	t.Parallel()
	r := Receiver{
		Trips: 2, Hosts: 1, RTT: 20 * time.Millisecond, Service: 100 * time.Millisecond, Noise: 0.5,
		Later: 0.1, Drop: 0.05, HostLimit: []int{3}, Backends: 4, Lag: time.Second, LagNoise: 0.5,
	}
	const messages = 4000
	type shares struct{ refused, later, lost, time, deviation float64 }
	var simulated, overSink shares
	measure := func(s *shares, connect func() string, send func(i int) (string, time.Duration)) {
		refused := 0.0
		n := map[string]float64{}
		var sum, squares float64
		for i := range messages {
			if connect() != "yes" {
				refused++
			}
			answer, d := send(i)
			n[answer]++
			if answer == "taken" {
				sum += d.Seconds()
				squares += d.Seconds() * d.Seconds()
			}
		}
		s.refused, s.later, s.lost = refused/messages, n["later"]/messages, n["lost"]/messages
		s.time = sum / n["taken"]
		s.deviation = math.Sqrt(squares/n["taken"] - s.time*s.time)
	}

	// Up to nine connections are held, the oldest given up for each new one, beside one that sends.
	c := newClock(1)
	x := newReceiver(r, c, 1)
	held := []place{}
	measure(&simulated, func() string {
		if len(held) == 9 {
			x.leave(held[0])
			held = held[1:]
		}
		c.run(c.now + 150*time.Millisecond)
		p := x.place(0, 0)
		if x.called(p) != yes {
			return "refused"
		}
		x.enter(p)
		held = append(held, p)
		return "yes"
	}, func(int) (string, time.Duration) {
		a, d := x.offered(place{}, 1, false)
		if a == taken || a == lost {
			x.done()
		}
		c.run(c.now + d)
		return map[reply]string{taken: "taken", lost: "lost", refusedRcpt: "later"}[a], d
	})

	synctest.Test(t, func(t *testing.T) {
		n, err := sink.New(sink.Options{Offline: true, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		p, err := r.Provider("p", "*")
		if err == nil {
			err = n.Add(p)
		}
		quiet := r // the same host without limits, for the one that sends
		quiet.HostLimit, quiet.Backends, quiet.Lag = nil, 0, 0
		q, err2 := quiet.Provider("q", "*.q")
		if err2 == nil {
			err2 = n.Add(q)
		}
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		dial := func(host string) (*played, string) {
			p := &played{}
			if p.conn, err = n.Dial(host); err != nil {
				t.Fatal(err)
			}
			p.in = bufio.NewReader(p.conn)
			return p, p.greet()
		}
		var held []*played
		var sender *played
		measure(&overSink, func() string {
			if len(held) == 9 {
				fmt.Fprint(held[0].conn, "QUIT\r\n")
				held[0].line()
				held[0].conn.Close()
				held = held[1:]
			}
			time.Sleep(150 * time.Millisecond)
			p, answer := dial("mx1.p.test")
			if answer == "yes" {
				held = append(held, p)
			} else {
				p.conn.Close()
			}
			return answer
		}, func(i int) (string, time.Duration) {
			if sender == nil {
				sender, _ = dial("mx1.q.test")
			}
			began := time.Now()
			answer := sender.send(fmt.Sprintf("user%d@x.q", i))
			took := time.Since(began) - time.Microsecond // that send looks for an end
			switch answer {
			case "lost":
				sender.conn.Close()
				sender = nil
			case "later":
				fmt.Fprint(sender.conn, "RSET\r\n")
				sender.line()
			}
			return answer, took
		})
		for _, p := range append(held, sender) {
			p.conn.Close()
		}
	})
	for _, x := range []struct {
		what      string
		got, want float64
		within    float64 // of it
	}{
		{"connects refused", overSink.refused, simulated.refused, 0.15},
		{"recipients later", overSink.later, simulated.later, 0.15},
		{"connections lost", overSink.lost, simulated.lost, 0.15},
		{"time of a message", overSink.time, simulated.time, 0.02},
		{"its deviation", overSink.deviation, simulated.deviation, 0.1},
	} {
		t.Logf("%s: %.4f over the sink, %.4f simulated", x.what, x.got, x.want)
		if x.want == 0 || math.Abs(x.got/x.want-1) > x.within {
			t.Errorf("%s: %.4f over the sink, %.4f simulated", x.what, x.got, x.want)
		}
	}
}
