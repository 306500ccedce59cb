package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/lab/sink"
)

// watch prints a line a second until the context ends.
func watch(ctx context.Context, out io.Writer, n *sink.Internet) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	before := n.Stats()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := n.Stats()
		fmt.Fprintln(out, line(&before, &now))
		before = now
	}
}

// line says what happened between two looks. Hosts stay in their order, so
// they are compared by index; one added meanwhile started from nothing.
func line(before, now *sink.Stats) string {
	var hosts strings.Builder
	var total, messages int64
	for i, h := range now.Hosts {
		var was sink.HostStats
		if i < len(before.Hosts) {
			was = before.Hosts[i]
		}
		total += h.Messages
		messages += h.Messages - was.Messages
		refused := h.RefusedConnections() - was.RefusedConnections()
		if h.Open == 0 && h.Messages == was.Messages && refused == 0 {
			continue
		}
		fmt.Fprintf(&hosts, " | %s %d open %d/s", h.Host, h.Open, h.Messages-was.Messages)
		if refused > 0 {
			fmt.Fprintf(&hosts, " %d refused", refused)
		}
	}
	return fmt.Sprintf("%d accepted, %d/s%s", total, messages, hosts.String())
}
