// Command bench measures Postfix alone and Postfix with Millrace beside each
// other, on the same fake internet and in the same run:
//
//	make bench                                  # all scenarios, five rounds each; the report is dist/bench/report.md
//	make bench ROUNDS=1 BENCH='-scenario blast,throughput'
//	go run ./contrib/bench -quick               # one small round: does it work?
//	go run ./contrib/bench -rounds 1 -scenario receivers -receivers 1,5 -without postfix
//	go run ./contrib/bench -rounds 1 -scenario receivers -population 30 -seed 1
//	go run ./contrib/bench -readme dist/bench   # README's table and plot from that report
//
// A scenario is one file: a [scenario] with a function that runs its variants (Postfix
// alone, with Millrace, ...) in alternating rounds (see alternate), and gives a
// [section] of the report with tables, plots and comparisons for README. Each round
// starts its programs afresh. Absolute figures belong to the machine they were measured
// on. A claim is therefore a ratio of two variants within one round; the report gives
// its median over the rounds and its spread. The claims that the design wants reached
// are listed in numbers.go and head the report.
//
// The receivers and the injector are goroutines of this program, and share the machine
// with what is measured, in all variants alike. A figure of CPU time is that of the
// processes of Postfix, the milter and the agent alone (in the scenario session: of a
// client alone), so the bench's own work is never part of it.
//
// The program runs as root, in a closed room of package lab: no mail can leave, and
// nothing of the machine's own Postfix is touched. It needs Debian's postfix package,
// which has smtp-source too, and e2fsprogs for the ext4, made for the run, that queues
// and spool lie on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

func main() {
	if verdict, socket, ok := asNullMilter(os.Args); ok {
		if err := serveNullMilter(verdict, socket); err != nil {
			fmt.Fprintln(os.Stderr, "null milter:", err)
			os.Exit(1)
		}
		return
	}
	if job, ok := asSessionClient(os.Args); ok {
		if err := job.run(); err != nil {
			fmt.Fprintln(os.Stderr, "session client:", err)
			os.Exit(1)
		}
		return
	}
	// Outside the closed room too, so that a wrong flag needs no root.
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2)
	}
	if s.readme != "" {
		if err := writeReadme(strings.Split(s.readme, ","), "README.md"); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	lab.Main(program{s}, lab.WithPrograms)
}

// settings are the flags.
type settings struct {
	rounds     int
	quick      bool
	scenarios  []string
	directory  string // of the report
	readme     string
	sizes      []int // octets
	messages   int
	backlog    int
	sessions   int
	bulk       int
	window     time.Duration
	tail       time.Duration
	idle       time.Duration
	limits     time.Duration
	outage     time.Duration
	receivers  []string // of the scenario of that name; none: all
	without    []string // of its senders
	population int
	hard       bool
	seed       uint64
	learn      time.Duration
	measured   time.Duration
	recovery   time.Duration
	odd        time.Duration
	huge       bool
	here       bool

	given []string // the command line
}

// quick replaces what the command line does not say.
var quick = map[string]string{
	"rounds": "1", "messages": "300", "backlog": "1000", "bulk": "400", "window": "12s", "tail": "6s", "idle": "4s",
	"limits": "6s", "outage": "2s", "recovery": "10s", "odd": "10s",
	"learn": "2s", "measure": "3s",
}

func parse(args []string) (*settings, error) {
	s := &settings{given: args}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&s.rounds, "rounds", 5, "`rounds` of each scenario; in each, every variant runs once")
	f.BoolVar(&s.quick, "quick", false, "one small round of everything, to see that it works")
	names := f.String("scenario", "", "comma-separated `names` of the scenarios to run: "+strings.Join(scenarioNames(), ", ")+" (default all)")
	f.StringVar(&s.directory, "out", "", "write the report, "+reportFile+", its plots and "+resultFile+" into this `directory`")
	f.StringVar(&s.readme, "readme", "", "measure nothing: put the comparisons of the reports in these comma-separated `directories` into README.md")
	sizes := f.String("size", "2,8,50,100", "throughput, reports: comma-separated message sizes in `KB`")
	f.IntVar(&s.messages, "messages", 4000, "throughput, tls, milter, reports, session: `messages` of a round, warm-up not counted")
	f.IntVar(&s.backlog, "backlog", 20000, "throughput: `messages` in the spool that the agent drains, and of smtp-source; fewer of them above 8 KB")
	f.IntVar(&s.sessions, "sessions", 20, "throughput, tls: SMTP `sessions` of the injector, the agent and smtp-source")
	f.IntVar(&s.bulk, "bulk", 10000, "blast: bulk `messages`")
	f.DurationVar(&s.window, "window", time.Minute, "blast: `time` a round is watched for, at most")
	f.DurationVar(&s.tail, "tail", 30*time.Second, "blast: `time` that every transactional message is watched for; it is sent until so long before the round's end")
	f.DurationVar(&s.idle, "idle", 20*time.Second, "blast: `time` that transactional mail is measured alone first")
	f.DurationVar(&s.limits, "limits", 3*time.Minute, "limits: `time` of a round")
	f.DurationVar(&s.outage, "outage", time.Minute, "outage: `time` that the receiver is down")
	f.DurationVar(&s.recovery, "recovery", 10*time.Minute, "outage: `time` that its mail is watched for afterwards, at most")
	receivers := f.String("receivers", "", "receivers: comma-separated `rows` of its table to run, 1 to 10, or "+strings.Join(crowdNames(), ", ")+" (default all)")
	without := f.String("without", "", "receivers: comma-separated `senders` to leave out: millrace, default, tuned, or postfix for both of these")
	f.IntVar(&s.population, "population", 0, "receivers: meet so `many` receivers drawn from -seed instead, with Millrace alone")
	f.BoolVar(&s.hard, "hard", false, "receivers: with -population, draw from the hard ones")
	f.Uint64Var(&s.seed, "seed", 1, "receivers: `number` of the first receiver drawn")
	f.DurationVar(&s.learn, "learn", 25*time.Second, "receivers: `time` from the start that does not count")
	f.DurationVar(&s.measured, "measure", 55*time.Second, "receivers: `time` after that which is measured")
	f.DurationVar(&s.odd, "odd", 12*time.Minute, "odd: `time` that its mail is watched for")
	f.BoolVar(&s.huge, "huge", false, "backlog: also ten million messages, half of them deferred (a quarter of an hour, 10 GB of disk)")
	f.BoolVar(&s.here, "here", false, "measure on the file system of the temporary directory, not on an ext4 made for the run")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, usage(f, "unexpected argument %q", f.Arg(0))
	}
	if s.quick {
		said := map[string]bool{}
		f.Visit(func(x *flag.Flag) { said[x.Name] = true })
		for name, value := range quick {
			if !said[name] {
				if err := f.Set(name, value); err != nil {
					return nil, usage(f, "%v", err)
				}
			}
		}
	}
	for field := range strings.SplitSeq(*sizes, ",") {
		kb, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || kb < 1 {
			return nil, usage(f, "-size: %q is not a size in KB", field)
		}
		s.sizes = append(s.sizes, kb<<10)
	}
	if err := s.parseReceivers(*receivers, *without); err != nil {
		return nil, usage(f, "%v", err)
	}
	if *names != "" {
		s.scenarios = strings.Split(*names, ",")
	}
	for _, name := range s.scenarios {
		if _, ok := scenarioNamed(name); !ok {
			return nil, usage(f, "-scenario: no %q; there are %s", name, strings.Join(scenarioNames(), ", "))
		}
	}
	if min(s.rounds, s.messages, s.backlog, s.sessions, s.bulk) < 1 || min(s.tail, s.window-s.tail, s.idle, s.limits, s.outage, s.recovery, s.odd) < time.Second {
		return nil, usage(f, "counts must be positive, and times at least a second; -window a second longer than -tail")
	}
	return s, nil
}

// command repeats the run.
func (s *settings) command() string {
	return strings.TrimSpace("go run ./contrib/bench " + strings.Join(s.given, " "))
}

func usage(f *flag.FlagSet, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	fmt.Fprintln(f.Output(), "bench:", err)
	return err
}

// program is what runs inside the closed room.
type program struct{ *settings }

// Run returns the exit code. No figure makes it fail; a message lost does.
func (p program) Run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{settings: p.settings, out: os.Stdout, progress: os.Stderr}
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}
