package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab/ledger"
)

// account prints the table at the end.
func (s *scene) account(o options, sent *ledger.Ledger, peak map[string]control.Site) error {
	received := s.Internet.Ledger()
	report := ledger.Compare(sent, received)
	plain := 0
	for i := range o.messages {
		if transactional(i) {
			plain++
		}
	}
	diverted := int(s.diverted.Load())
	left := received.Messages() - diverted
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nnewsletter: diverted and delivered\t%d of %d\n", diverted, o.messages-plain)
	fmt.Fprintf(w, "password resets: left with Postfix and delivered\t%d of %d\n", left, plain)
	reset := ledger.Latencies(sent, received, func(id string) bool { return transactional(number(id)) })
	bulk := ledger.Latencies(sent, received, func(id string) bool { return !transactional(number(id)) })
	fmt.Fprintf(w, "latency of password resets, sent by Postfix as ever\tmedian %s, 99%% within %s\n", quantile(reset, 0.5), quantile(reset, 0.99))
	fmt.Fprintf(w, "latency of the newsletter, sent by Millrace\tmedian %s, 99%% within %s\n", quantile(bulk, 0.5), quantile(bulk, 0.99))
	w.Flush()

	stats := s.Internet.Stats()
	fmt.Fprintf(w, "\nprovider\thosts\tits limit\tMillrace's sessions, most at once\tdelivered\trefused connections\n")
	for _, p := range providers {
		h := stats.Provider(p.Name)
		limit := "none"
		if n := p.Behaviour.HostConnections; n > 0 {
			limit = fmt.Sprintf("%d", n*p.Hosts)
		}
		most := 0
		for name, x := range peak {
			if name == p.Name || strings.Contains(name, "."+p.Name+".") {
				most = max(most, x.Sessions)
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%d\n", p.Name, p.Hosts, limit, most, h.Messages, h.RefusedConnections())
	}
	w.Flush()

	fmt.Fprintf(o.out, "\nledgers: %s\n", report)
	if n := s.crossed.Load(); n > 0 {
		fmt.Fprintf(o.out, "%d messages went the wrong way\n", n)
		return errFailed
	}
	if !report.Clean() || report.Excused > 0 || diverted != o.messages-plain || left != plain {
		return errFailed
	}
	fmt.Fprintln(o.out, "nothing lost, nothing twice, every byte as sent.")
	return nil
}

// number is the i of message(i).
func number(id string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(id, "demo-"))
	return n
}

// quantile of a sorted list, rounded for reading.
func quantile(list []time.Duration, q float64) string {
	if len(list) == 0 {
		return "-"
	}
	return list[min(int(q*float64(len(list))), len(list)-1)].Round(time.Millisecond).String()
}
