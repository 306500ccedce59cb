// Millrace is the admin's command: it checks a configuration, looks into the
// queue, and shows the whole at work.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/millrace/millrace/cmd/internal/program"
)

// globals are the flags before the verb.
type globals struct{ program.Flags }

type cli struct {
	globals
	Check   checkCmd   `cmd:"" help:"Check the configuration, and whether the running Postfix fits it."`
	Queue   queueCmd   `cmd:"" aliases:"q" help:"List what is queued, as mailq does."`
	Find    findCmd    `cmd:"" help:"Look for queued mail: by recipient, sender, queue id, message id."`
	History historyCmd `cmd:"" help:"Tell what became of an address, a message or a stream: every attempt and its reply."`
	Cat     catCmd     `cmd:"" help:"Print a message with its envelope, as postcat does."`
	Top     topCmd     `cmd:"" help:"Watch the sites and streams at work; with keys to pause, flush, explain."`
	Shape   shapeCmd   `cmd:"" help:"Show how old the queue is, as qshape does."`
	Stats   statsCmd   `cmd:"" help:"Sum up what the agent did since it started."`
	Retreat retreatCmd `cmd:"" help:"Give everything back to the host's MTA, and make Millrace safe to remove."`
	Setup   setupCmd   `cmd:"" help:"Make the host's MTA ask Millrace, or no longer."`
	Report  reportCmd  `cmd:"" help:"Sum up what was diverted, or in observe mode would have been."`
	Verdict verdictCmd `cmd:"" help:"Tell what the milter would decide about a message, and why."`
	Why     whyCmd     `cmd:"" help:"Explain how many sessions a site gets, and how fast they send."`
	Reply   replyCmd   `cmd:"" help:"Say how a server's reply is read, and what follows from it."`
	Web     webCmd     `cmd:"" help:"Print a link to the status page that lets a browser see mail addresses."`

	Streams  streamsCmd  `cmd:"" help:"List the streams: campaigns and lists."`
	Priority priorityCmd `cmd:"" help:"Give a stream more than one share."`
	Pause    pauseCmd    `cmd:"" help:"Stop a stream, a queue, a site, a user ... or everything."`
	Resume   resumeCmd   `cmd:"" help:"Let go on what is paused."`
	Brakes   brakesCmd   `cmd:"" help:"List what is paused or limited, and by whom."`
	Warmup   warmupCmd   `cmd:"" help:"Show how far addresses that warm up have come."`
	Set      setCmd      `cmd:"" help:"Limit a site or a queue for a time."`

	Flush    flushCmd    `cmd:"" help:"Try queued mail now, as postqueue -f does."`
	Hold     holdCmd     `cmd:"" help:"Keep queued mail, as postsuper -h does."`
	Release  releaseCmd  `cmd:"" help:"Let go on what is on hold, as postsuper -H does."`
	Requeue  requeueCmd  `cmd:"" help:"Take queued mail in anew, as postsuper -r does."`
	Expire   expireCmd   `cmd:"" help:"End queued mail as expired, with a report, as postsuper -e does."`
	Cancel   cancelCmd   `cmd:"" help:"End queued mail for good, as postsuper -d does."`
	Reload   reloadCmd   `cmd:"" help:"Have the agent read its configuration anew."`
	Handback handbackCmd `cmd:"" help:"Give queued mail back to Postfix."`
	Move     moveCmd     `cmd:"" help:"Give queued mail to another node of the fleet."`
	Drain    drainCmd    `cmd:"" help:"Divert nothing more, and send what is queued."`

	Forget   forgetCmd   `cmd:"" help:"Erase what is kept of an address."`
	Suppress suppressCmd `cmd:"" help:"The addresses that are not tried again: list, add, remove, import, export, stats."`

	Fleet   fleetCmd   `cmd:"" help:"Hosts that share limits: status, forget, leave, bootstrap."`
	Webhook webhookCmd `cmd:"" help:"The receivers of events: list, test, replay."`

	Feedback feedbackCmd `cmd:"" help:"Take a delivery report or a complaint from a pipe."`

	Spool spoolCmd `cmd:"" help:"Look into the spool directory: ls, cat, verify, stats."`
	Trace traceCmd `cmd:"" help:"Show how mail for a destination would go, with a live transcript."`
	Watch watchCmd `cmd:"" help:"Show the dialogue of sessions as it happens: of a site, for a recipient, what failed."`

	Completion completionCmd `cmd:"" help:"Print the completion of verbs, flags and names for a shell."`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:""`

	Demo demoCmd `cmd:"" help:"Show the whole at work: a private Postfix, both daemons, a fake internet."`
}

func main() {
	var c cli
	k := program.Parse("millrace", `Millrace drives bulk mail beside the MTA you already run.

Exit codes: 0 done; 1 it failed, or nothing was selected other than by --all; 64 wrong
arguments; 75 not all nodes of a fleet answered; 78 the configuration cannot be used.`, &c)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k.BindTo(ctx, (*context.Context)(nil))
	program.Exit("millrace", k.Run(&c.globals))
}
