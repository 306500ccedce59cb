package order

import "github.com/millrace/millrace/agent/printable"

// news is an order that came from elsewhere, with what it ends here.
type news struct {
	order *kept
	ends  []*kept
}

// maxTold bounds the octets that the log has of an order's body.
const maxTold = 1000

// news is what a new order is to this node. What came with it and is not in force yet is not ended
// by it. The caller holds mu, and has not put it into the set.
func (l *Log) news(k *kept, taken []news) news {
	n := news{order: k}
next:
	for _, id := range k.Lifts {
		x := l.orders[id]
		if x == nil || !x.Kind.standing() || l.lifted[id] > 0 {
			continue
		}
		for i := range taken {
			if taken[i].order == x {
				continue next
			}
		}
		n.ends = append(n.ends, x)
	}
	return n
}

// tell logs what was ordered elsewhere and changes something here, in the words in which the log of
// the other node has it (package control). What was learned of bounces is told in sum by who does it.
// The caller holds mu.
func (l *Log) tell(taken []news) {
	now := l.o.Now()
	for _, n := range taken {
		k := n.order
		attrs := []any{"who", k.Who, "node", k.ID.Node, "order", k.ID.String()}
		if k.Kind == Lift {
			for _, x := range n.ends {
				l.o.Log.Info("admin", append([]any{"do", "resume", "of", string(x.Kind), "request", printable.Shorten(string(x.Body), maxTold)}, attrs...)...)
			}
			continue
		}
		known := k.Kind.standing() || k.Kind == Cancel || k.Kind.change() && k.Who != ""
		stands := l.orders[k.ID] == k && l.lifted[k.ID] == 0 && !k.over(now) // else it ended before this node heard of it
		if known && stands {
			l.o.Log.Info("admin", append([]any{"do", string(k.Kind), "request", printable.Shorten(string(k.Body), maxTold)}, attrs...)...)
		}
	}
}
