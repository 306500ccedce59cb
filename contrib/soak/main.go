// Command soak lets mail flow through a real Postfix and Millrace to a fake
// internet for some minutes while everything goes wrong, and then holds the
// injector's ledger against the receivers':
//
//	make soak                          # ten minutes, seed 1
//	make soak SOAK=1h SEED=7
//	go run ./contrib/soak -duration 60s -seed 3
//
// The faults are drawn from the seed before anything starts, and printed: a
// [schedule] in lanes, one lane for each thing that may fail. Faults of
// one lane follow each other, those of different lanes meet as they like: the
// agent is killed while the disk is full and a receiver hangs. The same seed
// draws the same faults and the same mail; how they meet is the machine's.
//
//	agent, milter   kill -9, SIGTERM, SIGHUP with a good and a bad file, SIGSTOP
//	postfix         kill -9 of all its processes, stop, reload
//	dns             the resolver is away
//	disk            under min_free, no octet left, stands still, is slow
//	hand-back       nobody there, too many connections
//	admin           pauses, holds, flushes, requeues and hands back streams
//	receivers       down, unreachable, fewer connections, rates, bans, greylists,
//	                hanging at DATA or at the dot, dropped connections (the mail
//	                accepted or not), no answer from their DNS
//
// A fault heals at its end, all of them at the end of the time. Then all mail has
// to leave both queues, and [scene.settle] draws up the account: nothing lost,
// altered, stray or on the wrong way; each copy too many explained one by one by
// a crash or a cut that leaves no choice (see package repeats); each refused recipient reported to its
// sender; /readyz content; memory, descriptors and goroutines of both daemons
// back where they were. It exits with 1 if any of that does not hold, and leaves
// logs, ledgers and spool in the evidence directory.
//
// Slow disks are real: the spool lies on an ext4 of its own, in a loop device, and
// FIFREEZE stops it (see [disk]). Steps of the clock are left out: a time namespace moves the
// monotonic clock only, and setting the other one would set the machine's. Package
// agent/queue has a test of them.
//
// It runs as root in the closed room of package lab.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// settings are the flags.
type settings struct {
	duration time.Duration
	seed     uint64
	rate     float64 // messages per second
	drain    time.Duration
	evidence string // directory
}

func main() {
	var s settings
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	f.DurationVar(&s.duration, "duration", 10*time.Minute, "`time` in which mail flows and things go wrong")
	f.Uint64Var(&s.seed, "seed", 1, "`number` that decides on faults and mail")
	f.Float64Var(&s.rate, "rate", 60, "`messages` a second")
	f.DurationVar(&s.drain, "drain", 20*time.Minute, "`time` for all mail to leave the queues afterwards; the agent waits up to 15 minutes before it asks again where it was turned away")
	f.StringVar(&s.evidence, "evidence", "", "`directory` for what is kept of a run that failed (default soak-evidence/seed-N)")
	if err := f.Parse(os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		return
	} else if err != nil {
		os.Exit(2)
	}
	if f.NArg() > 0 || s.duration <= 0 || s.rate <= 0 || s.drain <= 0 {
		fmt.Fprintln(os.Stderr, "soak: times and rate must be positive, and there are no arguments but flags")
		os.Exit(2)
	}
	if s.evidence == "" {
		s.evidence = filepath.Join("soak-evidence", fmt.Sprintf("seed-%d", s.seed))
	}
	lab.Main(s, lab.WithPrograms)
}

// Run runs inside the closed room and returns the exit code.
func (s settings) Run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := soak(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 1
	}
	return 0
}
