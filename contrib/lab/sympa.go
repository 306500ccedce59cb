package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// sympaUser is the number that the lab gives Sympa's user and group.
const sympaUser = 990

// sympaDomain is the domain of Sympa's lists.
const sympaDomain = "lists." + LocalDomain

// Sympa is an installed Sympa: the real software that makes a list's post, a notice or an
// answer of what comes in. None of its daemons runs: Process does what they do, once.
type Sympa struct {
	tree  *tree
	lists []string
}

// Handed is what a program hands to sendmail(1).
type Handed struct {
	Args    []string // options, as the program gave them
	From    string   // envelope sender
	To      []string // envelope recipients
	Message []byte   // lines end in LF
}

// NewSympa installs Debian's Sympa, its database SQLite, in a tree of its own. The program
// must be isolated. Close removes everything.
func NewSympa() (*Sympa, error) {
	t, err := newTree("sympa", "")
	if err != nil {
		return nil, fmt.Errorf("sympa: %w", err)
	}
	s := &Sympa{tree: t}
	err = errors.Join(
		t.user("sympa", sympaUser),
		t.write("/etc/sympa/sympa/sympa.conf", sympaConf),
		t.write("/usr/sbin/sendmail", sympaSendmail),
		os.Chmod(t.path("/usr/sbin/sendmail"), 0o755),
		t.write("/process.pl", sympaProcess),
	)
	for _, dir := range []string{
		"/run/sympa", "/var/lib/sympa", "/var/lib/sympa/list_data", "/var/lib/sympa/sent", "/var/spool/sympa", "/var/spool/sympa/msg",
	} {
		err = errors.Join(err, t.directory(dir, sympaUser, sympaUser, 0o755))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sympa: %w", err), s.Close())
	}
	return s, nil
}

// AddList makes a list to which everybody may write, with lines of Sympa's for its
// configuration, and returns its address.
func (s *Sympa) AddList(name, lines string, members ...string) (address string, err error) {
	dir := "/var/lib/sympa/list_data/" + name
	err = s.tree.directory(dir, sympaUser, sympaUser, 0o755)
	if err == nil {
		err = s.tree.write(dir+"/config", sympaList+lines)
	}
	if err == nil {
		err = os.Chown(s.tree.path(dir+"/config"), sympaUser, sympaUser)
	}
	if err != nil {
		return "", fmt.Errorf("sympa: list %s: %w", name, err)
	}
	s.lists = append(s.lists, name+"="+strings.Join(members, ","))
	return name + "@" + sympaDomain, nil
}

// RobotAddress is where Sympa takes commands.
func (s *Sympa) RobotAddress() string { return "sympa@" + sympaDomain }

// Receive gives Sympa a message for an address of its, by the program that an MTA's alias
// names. Process does something about it.
func (s *Sympa) Receive(ctx context.Context, to string, message []byte) error {
	_, err := s.run(ctx, message, "/usr/lib/sympa/bin/queue", to)
	return err
}

// Process takes in what was received and sends what is to go out, by Sympa's own code, and
// returns what that handed to sendmail(1).
func (s *Sympa) Process(ctx context.Context) ([]Handed, error) {
	log, err := s.run(ctx, nil, "/usr/bin/perl", append([]string{"/process.pl", sympaDomain}, s.lists...)...)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(s.tree.path("/var/lib/sympa/sent/*"))
	if err != nil {
		return nil, err
	}
	var sent []Handed
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		args, message, _ := strings.Cut(string(b), "\n\n")
		h := Handed{Args: strings.Split(args, "\n"), Message: []byte(message)}
		from, to := slices.Index(h.Args, "-f")+1, slices.Index(h.Args, "--")
		if from == 0 || to < from {
			return nil, fmt.Errorf("sympa: handed to sendmail(1) with %q", h.Args)
		}
		h.From, h.To, h.Args = h.Args[from], h.Args[to+1:], h.Args[:from-1]
		sent = append(sent, h)
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	if len(sent) == 0 {
		return nil, fmt.Errorf("sympa: nothing was sent:\n%s", log)
	}
	return sent, nil
}

// run runs a program as Sympa's user and returns what it said.
func (s *Sympa) run(ctx context.Context, in []byte, program string, args ...string) ([]byte, error) {
	cmd := s.tree.command(program, args...)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: sympaUser, Gid: sympaUser}
	cmd.Stdin = bytes.NewReader(in)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("sympa: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { s.tree.kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("sympa: %s: %w\n%s", program, err, said.Bytes())
	}
	return said.Bytes(), nil
}

// Close ends every process and removes every file.
func (s *Sympa) Close() error { return s.tree.remove() }

const sympaConf = `
domain ` + sympaDomain + `
listmaster postmaster@` + LocalDomain + `
wwsympa_url http://` + sympaDomain + `/sympa
db_type SQLite
db_name /var/lib/sympa/sympa.sqlite
sendmail /usr/sbin/sendmail
`

const sympaList = `
subject News

visibility noconceal

owner
email editor@` + LocalDomain + `
profile privileged

send public

creation
email postmaster@` + LocalDomain + `
date_epoch 1700000000

status open

`

// sympaSendmail keeps what it is given: its arguments, one a line, an empty line, the message.
const sympaSendmail = `#!/bin/sh
f=$(mktemp /var/lib/sympa/sent/XXXXXX) || exit 75
{ printf '%s\n' "$@"; echo; cat; } >"$f"
`

// sympaProcess makes the database, subscribes the members and turns Sympa's spindles, as
// sympa_msg.pl and bulk.pl do for ever, until nothing is left.
const sympaProcess = `
use strict;
use warnings;
use lib '/usr/share/sympa/lib';
use Conf;
use Sympa::DatabaseManager;
use Sympa::Language;
use Sympa::List;
use Sympa::Log;
use Sympa::Mailer;
use Sympa::Spindle::ProcessIncoming;
use Sympa::Spindle::ProcessOutgoing;

Sympa::Log->instance->{log_to_stderr} = 'all';
Conf::load() or die 'sympa.conf cannot be read';
Conf::checkfiles() or die 'files are missing';
Sympa::DatabaseManager::probe_db() or die 'no database';
Sympa::Language->instance->set_lang('en');

my $domain = shift;
foreach (@ARGV) {
    my ($name, $members) = split /=/, $_, 2;
    my $list = Sympa::List->new($name, $domain) or die "no list $name";
    foreach my $address (split /,/, $members) {
        $list->add_list_member({email => $address, date => time, update_date => time}) unless $list->is_list_member($address);
    }
}
foreach my $spindle (Sympa::Spindle::ProcessIncoming->new, Sympa::Spindle::ProcessOutgoing->new) {
    # What a turn has left for its lower priority comes after one that does nothing.
    for (my $idle = 0; $idle < 2;) {
        $idle = $spindle->spin ? 0 : $idle + 1;
    }
}
1 while wait > 0;
`
