package main

import (
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/cmd/internal/program"
)

// filterFlags say which queued recipients a verb is about; every verb that has
// to do with some of the queue embeds them, with a group for its help.
type filterFlags struct {
	All       bool   `group:"Which mail (several conditions must all hold):" help:"Everything."`
	ID        string `group:"Which mail (several conditions must all hold):" name:"id" placeholder:"ID" help:"The message of this id."`
	Stream    string `group:"Which mail (several conditions must all hold):" placeholder:"NAME" help:"Of this stream."`
	Queue     string `group:"Which mail (several conditions must all hold):" placeholder:"NAME" help:"Of this queue."`
	Site      string `group:"Which mail (several conditions must all hold):" placeholder:"NAME" help:"To this site: its name, a domain, an MX host or an address."`
	Domain    string `group:"Which mail (several conditions must all hold):" placeholder:"NAME" help:"To recipients in this domain."`
	Sender    string `group:"Which mail (several conditions must all hold):" placeholder:"ADDRESS" help:"Of this envelope sender; <> is the null sender."`
	Recipient string `group:"Which mail (several conditions must all hold):" placeholder:"ADDRESS" help:"To this recipient."`
	User      string `group:"Which mail (several conditions must all hold):" placeholder:"NAME" help:"Submitted by this SASL user."`
	Client    string `group:"Which mail (several conditions must all hold):" placeholder:"ADDRESS" help:"Submitted by this SMTP client."`
	State     string `group:"Which mail (several conditions must all hold):" placeholder:"STATE" enum:",active,waiting,deferred,held,stuck" default:"" help:"In this state: active, waiting, deferred, held, stuck."`
	OlderThan age    `group:"Which mail (several conditions must all hold):" placeholder:"TIME" help:"Taken by the host longer ago than this: 36h, 5d."`
}

// age is a duration in the notation of the configuration, which has days.
type age time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *age) UnmarshalText(b []byte) error {
	d, err := config.ParseDuration(string(b))
	*a = age(d)
	return err
}

// filter is the filter that the flags ask for; empty without any.
func (f *filterFlags) filter() control.Filter {
	return control.Filter{
		All: f.All, ID: f.ID, Stream: f.Stream, Queue: f.Queue, Site: f.Site, Domain: f.Domain, Sender: f.Sender,
		Recipient: f.Recipient, User: f.User, Client: f.Client, State: f.State, OlderThan: control.Age(f.OlderThan),
	}
}

// some is the filter for a verb that changes something: it must be said of what.
func (f *filterFlags) some() (control.Filter, error) {
	x := f.filter()
	if x.Empty() {
		return x, program.Usage("say which mail: --stream, --user, --domain ... or --all")
	}
	return x, nil
}
