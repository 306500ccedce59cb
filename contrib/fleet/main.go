// Command fleet shows three nodes of a fleet and what becomes of their mail while the store, a
// node or a connection fails:
//
//	make fleet                                # all of it, some eleven minutes
//	make fleet FLEET="-parts share,store"     # parts of it
//	make fleet FLEET="-apart"                 # nodes that know nothing of each other: it must fail
//
// Each node is an agent with a spool, a state directory, a configuration and a certificate of
// the fleet's own authority, on a machine of its own: a network namespace with one address on a
// switch, a clock on the wall that is five minutes wrong, and a clock since boot that began at another time. A
// machine more has the store, a real redis-server. The receivers are those of contrib/lab/sink;
// they allow 2, 10 and 40 connections in all, turn away more, and tell of each connection that
// comes, from where and for how long. So the greatest number at any moment is known, not
// sampled, whatever a node believes of itself.
//
// Its parts follow each other on the same fleet, while mail flows; [parts] says what each of
// them claims. Each claim is checked, the figures are in a table at the end, and the program
// exits with 1 if one of them does not hold.
//
// It runs as root in the closed room of package lab: nothing can leave the machine, and when it
// ends, however it ends, programs, networks and files are gone with the room.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// settings are the flags.
type settings struct {
	parts    []string
	apart    bool          // the nodes are of no fleet
	clocks   bool          // the nodes' clocks are wrong
	measure  time.Duration // how long goodput is measured
	evidence string        // directory
	timeout  time.Duration
}

func main() {
	var s settings
	chosen := ""
	f := flag.NewFlagSet("fleet", flag.ContinueOnError)
	f.StringVar(&chosen, "parts", "", "`names` of the parts to show, of "+strings.Join(names(), ",")+" (default all)")
	f.BoolVar(&s.apart, "apart", false, "the nodes know nothing of each other; shows that the lab finds what it looks for, and fails")
	f.BoolVar(&s.clocks, "clocks", true, "the nodes' clocks are five minutes apart; without it all have the machine's")
	f.DurationVar(&s.measure, "measure", 100*time.Second, "`time` over which the goodput of three nodes is measured; it begins half a minute after the store does, and the first turn at the smallest limit comes after two minutes")
	f.DurationVar(&s.timeout, "timeout", 20*time.Minute, "give up after this `time`")
	f.StringVar(&s.evidence, "evidence", "fleet-evidence", "`directory` for the logs of a run that failed")
	if err := f.Parse(os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		return
	} else if err != nil {
		os.Exit(2)
	}
	s.parts = names()
	if chosen != "" {
		s.parts = strings.Split(chosen, ",")
	}
	for _, p := range s.parts {
		if !slices.Contains(names(), p) {
			fmt.Fprintf(os.Stderr, "fleet: -parts: there is no part %q: want some of %s\n", p, strings.Join(names(), ","))
			os.Exit(2)
		}
	}
	if f.NArg() > 0 || s.measure <= 0 || s.timeout <= 0 {
		fmt.Fprintln(os.Stderr, "fleet: times must be positive, and there are no arguments but flags")
		os.Exit(2)
	}
	if !s.clocks {
		lab.Main(s, lab.WithPrograms)
	}
	var ahead []time.Duration
	for _, c := range clocks[1:] {
		ahead = append(ahead, c.clock)
	}
	lab.Main(s, lab.WithClocks(ahead...))
}

// Run runs inside the closed room and returns the exit code.
func (s settings) Run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	w := &world{settings: s, out: os.Stdout, traffic: newTraffic()}
	err := w.show(ctx)
	if err != nil {
		err = errors.Join(err, w.keepEvidence())
	}
	if err = errors.Join(err, w.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		return 1
	}
	return 0
}
