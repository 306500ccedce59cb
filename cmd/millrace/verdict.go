package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
	"github.com/millrace/millrace/milter/classify"
)

// verdictCmd says what the milter would decide about a message.
type verdictCmd struct {
	Sender *string  `placeholder:"ADDRESS" help:"Envelope sender; <> is the null sender. Default: the message's Return-Path, else its Sender or From."`
	User   string   `placeholder:"NAME" help:"SASL user who submits it. Default: none, a client on this host."`
	Rcpt   []string `placeholder:"ADDRESS" help:"Recipient; may be given again. Default: one somewhere on the internet."`
	JSON   bool     `name:"json" help:"For programs: one JSON object a line."`
	Files  []string `arg:"" placeholder:"FILE" help:"Messages, header and all, one a file; - is standard input."`
}

func (c *verdictCmd) Help() string {
	return `Tells what the milter would decide about each message and why, with the
configuration as it stands: whether it is diverted, the marks of bulk that it has, by
family, and its stream. Neither the milter nor the agent has to run, nothing is sent.
The recipients count as such that the MTA sends to their own domains.

The files are judged in their order, as if they came now one after the other: 600 of one
sender and subject show what volume does.

A message is judged as it was submitted. One saved from a mailbox may have fields that
delivery there added, X-Sieve or a spam mark, and they count; of a mailbox file (mbox) the
first message is judged.

Exit code: 0 whatever is decided; 1 if a message cannot be read. The others are judged.

Examples:
  millrace verdict newsletter.eml
  millrace verdict --sender bounce@shop.example --user shop receipt.eml
  millrace verdict --json ~/Maildir/cur/* | jq 'select(.divert) | .file'`
}

func (c *verdictCmd) Run(g *globals) error {
	// Nothing here needs tidying up: let ^C end a read that waits.
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	return c.print(os.Stdout, os.Stdin, &cfg.Milter)
}

// opinion is what is decided about a file.
type opinion struct {
	File     string   `json:"file"` // nameOf it
	Divert   bool     `json:"divert"`
	Reason   string   `json:"reason"`
	Evidence []string `json:"evidence"`       // "family: mark"
	Stream   string   `json:"stream"`         // "" if it is not diverted
	Pool     string   `json:"pool,omitempty"` // that the rule names
}

func (c *verdictCmd) print(w io.Writer, stdin io.Reader, cfg *config.Milter) error {
	classifier, err := classify.New(*cfg, classify.NewVolume())
	if err != nil {
		return program.Error{Code: program.ExitConfig, Err: err}
	}
	out := bufio.NewWriter(w)
	defer out.Flush()
	enc := json.NewEncoder(printable.NewJSON(out))
	var unread []error
	for _, file := range c.Files {
		m, large, err := c.read(file, stdin, cfg)
		if err != nil {
			unread = append(unread, fmt.Errorf("%s: %w", nameOf(file), err))
			continue
		}
		d := classifier.Decide(m)
		o := opinion{nameOf(file), d.Divert != nil, d.Reason, []string{}, d.Stream, d.Pool}
		if o.Divert && large {
			o.Divert, o.Reason, o.Stream, o.Pool = false, "message is larger than max_message_size", "", ""
		}
		for _, e := range d.Evidence {
			o.Evidence = append(o.Evidence, e.String())
		}
		if c.JSON {
			if err := enc.Encode(o); err != nil {
				return err
			}
			continue
		}
		o.print(out)
	}
	return errors.Join(append(unread, out.Flush())...)
}

// nameOf is a file's name as text. One that is not UTF-8 has its octets as \xNN, and what
// else would be taken for that quoted: printf %b gives it back.
func nameOf(file string) string {
	if utf8.ValidString(file) {
		return file
	}
	quoted := strconv.Quote(file)
	return quoted[1 : len(quoted)-1]
}

func (o *opinion) print(w io.Writer) {
	if o.Divert {
		pool := ""
		if o.Pool != "" {
			pool = ", pool " + o.Pool
		}
		printable.Fprintf(w, "%s: divert, stream %s%s: %s\n", o.File, o.Stream, pool, o.Reason)
	} else {
		printable.Fprintf(w, "%s: leave: %s\n", o.File, o.Reason)
	}
	for _, e := range o.Evidence {
		printable.Fprintf(w, "    %s\n", e)
	}
}

// maxHead bounds a header, in octets: the milter leaves what has a larger one with the
// host.
const maxHead = 1 << 20

// read makes of a file what the MTA would tell the milter of it; large says that the
// message has more octets than the milter takes.
func (c *verdictCmd) read(file string, stdin io.Reader, cfg *config.Milter) (m *classify.Message, large bool, err error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			return nil, false, path.Err
		} else if err != nil {
			return nil, false, err
		}
		defer f.Close()
		in = f
	}
	m = &classify.Message{Arrived: time.Now(), AuthUser: c.User, Client: netip.MustParseAddr("127.0.0.1")}
	r := bufio.NewReader(io.LimitReader(in, maxHead+1))
	// A mailbox file has more than the one message.
	start, _ := r.Peek(len(mboxFrom))
	mbox := string(start) == mboxFrom
	var size int64
	if m.Header, size, err = readHeader(r); err != nil {
		return nil, false, err
	}
	if most := int64(cfg.MaxMessageSize); most > 0 && !mbox {
		rest, err := io.CopyN(io.Discard, io.MultiReader(r, in), max(0, most-size)+1)
		if err != nil && err != io.EOF {
			return nil, false, err
		}
		large = size+rest > most
	}
	// What the final delivery has added is no word of the submitter.
	var path string
	header := m.Header[:0]
	for _, f := range m.Header {
		if strings.EqualFold(f.Name, "Return-Path") {
			path = strings.TrimSpace(f.Value)
			continue
		}
		header = append(header, f)
	}
	m.Header = header
	switch {
	case c.Sender != nil:
		m.Sender = strings.Trim(*c.Sender, "<>")
	case path != "":
		m.Sender = strings.Trim(path, "<>")
	default:
		for _, name := range [...]string{"Sender", "From"} {
			if list := m.Addresses(name); m.Sender == "" && len(list) > 0 {
				m.Sender = list[0]
			}
		}
		if m.Sender == "" { // which is not the null sender
			return nil, false, errors.New("no Return-Path, Sender or From names the sender; give --sender")
		}
	}
	to := c.Rcpt
	if len(to) == 0 {
		to = []string{"someone@elsewhere.invalid"} // To may name a list
	}
	mailer, host := "smtp", ""
	if len(cfg.Remote) > 0 {
		mailer, host, _ = strings.Cut(cfg.Remote[0], ":")
	}
	for _, a := range to {
		a = strings.Trim(a, "<>")
		r := classify.Recipient{Address: a, Mailer: mailer, Host: host}
		if host == "" {
			r.Host = strings.ToLower(a[strings.LastIndexByte(a, '@')+1:])
		}
		m.Recipients = append(m.Recipients, r)
	}
	return m, large, nil
}

// mboxFrom begins the line before a message in an mbox file.
const mboxFrom = "From "

// readHeader reads fields up to the first empty line, in lines that end as in files or
// on the wire, and tells how many octets it has read. The line before a message in an mbox
// file is passed over.
func readHeader(r *bufio.Reader) (fields []classify.Field, size int64, err error) {
	for {
		line, err := r.ReadString('\n')
		if size += int64(len(line)); size > maxHead {
			return nil, 0, errors.New("header is too large to hold; the milter leaves such mail with the host")
		}
		if err != nil && err != io.EOF {
			return nil, 0, err
		}
		last := err == io.EOF
		line = strings.TrimRight(line, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimRight(name, " \t") // RFC 5322 4.5, and Postfix
		switch {
		case line == "":
			last = true
		case (line[0] == ' ' || line[0] == '\t') && len(fields) > 0:
			fields[len(fields)-1].Value += "\n" + line
		case ok && name != "" && !strings.ContainsAny(name, " \t"):
			fields = append(fields, classify.Field{Name: name, Value: value})
		case len(fields) == 0 && strings.HasPrefix(line, mboxFrom):
		default: // the body begins without an empty line, as for Postfix
			last = true
		}
		if last {
			if len(fields) == 0 {
				return nil, 0, errors.New("no header: is this a message?")
			}
			return fields, size, nil
		}
	}
}
