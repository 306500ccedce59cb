package main

// number is one of the numbers that Millrace's design wants reached. A scenario
// makes a claim of it; the report lists all, those not measured too.
type number struct {
	what, reach string
	met         func(float64) bool
	by          string // the scenario that measures it, or the command
}

// numberID names a number; it is its place in numbers.
type numberID int

// The numbers, in the order of the report.
const (
	transactionalBesideBlast numberID = iota
	steadyDrain
	refusedConnections
	refusedWherePunished
	drainCPU
	wholeHostCPU
	drainRate
	milterRate
	appendRate
	appendsToFiles
	firstDelivery
	millionMemory
	tenMillionMemory
	receiversShare
	receiversBehind
	receiversRefused
	restartRate
	killsLose
)

func numbers() []number {
	return []number{
		{"p99 of transactional mail: beside the blast / idle, with Millrace", "at most 1.5", atMost(1.5), "blast"},
		{"goodput against a limit that is not announced, second half: with Millrace / possible", "at least 0.85", atLeast(0.85), "limits"},
		{"refused connections for each message there, with Millrace", "at most 0.02", atMost(0.02), "limits"},
		{"refused connections for each message where each refusal is punished longer, with Millrace", "at most 0.001", atMost(0.001), "limits"},
		{"CPU a message of 8 KB: agent, draining / Postfix default", "at most 1/20 = 0.05", atMost(0.05), "throughput"},
		{"CPU a message of 8 KB, injection to remote 250: with Millrace / Postfix default", "at most 1", atMost(1), "throughput"},
		{"drain rate, 8 KB: agent / smtp-source", "at least 0.8", atLeast(0.8), "throughput"},
		{"messages/s, diverted: Millrace / null milter", "at least 0.9", atLeast(0.9), "milter"},
		{"spool / 10,000 a second, 32 writers, 8 KB", "at least 1", atLeast(1), "appends"},
		{"spool / a file each, 32 writers, 8 KB", "at least 3", atLeast(3), "appends"},
		{"1,000,000 messages: first delivery / 5 s", "at most 1", atMost(1), "backlog"},
		{"1,000,000 messages: memory / 200 MB", "at most 1", atMost(1), "backlog"},
		{"10,000,000 messages, half of them deferred: memory / 1200 MB", "at most 1", atMost(1), "backlog -huge"},
		{"goodput / possible at ten ordinary receivers at once, the worst one's median: Millrace", "at least 0.95", atLeast(0.95), "receivers"},
		{"the same: how much more Postfix tuned has at any of them", "at most 0.03", atMost(0.03), "receivers"},
		{"refused connections and messages for each accepted there, the worst one's median: Millrace", "at most 0.01", atMost(0.01), "receivers"},
		{"rate in the first 10 s after a restart / in the 10 s before, the worse of stop and kill", "at least 0.8", atLeast(0.8), "restart"},
		{"messages lost when the programs are killed again and again", "0", atMost(0), "make soak, not here"},
	}
}

// claim is what a scenario found of the number.
func (id numberID) claim(got series) claim {
	n := numbers()[id]
	return claim{what: n.what, reach: n.reach, got: got, met: n.met}
}

// numbersTable says of every number whether it was reached.
func numbersTable(sections []section) *table {
	t := &table{columns: []string{"number", "median (spread)", "to reach", "reached"}}
	for _, n := range numbers() {
		row := []string{n.what, "-", n.reach, "not measured (" + n.by + ")"}
		for _, s := range sections {
			for _, c := range s.claims {
				if c.what == n.what {
					row = c.row()
				}
			}
		}
		t.rows = append(t.rows, row)
	}
	return t
}
