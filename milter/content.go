package milter

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/milter/classify"
)

// MaxLine is the longest line, without its CRLF, that may leave (RFC 5321
// section 4.5.3.1.6).
const MaxLine = 998

// appendHead puts the header together as it goes to the spool: the fields as the
// client sent them, with CRLF for the LF that the milter protocol folds with,
// and the empty line. An error says why it could not leave unchanged.
func appendHead(b []byte, fields []classify.Field) ([]byte, error) {
	var check lines
	for _, f := range fields {
		if err := nameError(f.Name); err != nil {
			return b, err
		}
		start := len(b)
		b = append(append(b, f.Name...), ':')
		for rest := f.Value; ; {
			line, next, folded := strings.Cut(rest, "\n")
			b = append(append(b, line...), '\r', '\n')
			if !folded {
				break
			}
			if next == "" || next[0] != ' ' && next[0] != '\t' {
				return b, fmt.Errorf("%s has a line end that folds nothing", f.Name)
			}
			rest = next
		}
		if err := check.write(b[start:]); err != nil {
			return b, fmt.Errorf("header has %w", err)
		}
	}
	return append(b, '\r', '\n'), nil
}

// nameError checks a field's name (RFC 5322 section 3.6.8).
func nameError(name string) error {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || c == ':' {
			return errors.New("malformed field name")
		}
	}
	return nil
}

// lines checks octets that come in pieces: lines end in CRLF, nowhere else is a
// CR or an LF, there is no NUL, no line is too long.
type lines struct {
	length int  // of the line so far, CRs included
	cr     bool // the last octet was CR
}

// What content can have that keeps it with the host.
var (
	errNUL    = errors.New("a NUL")
	errBareCR = errors.New("a bare CR")
	errBareLF = errors.New("a bare LF")
	errLong   = fmt.Errorf("a line of more than %d octets", MaxLine)
)

func (l *lines) write(b []byte) error {
	if bytes.IndexByte(b, 0) >= 0 {
		return errNUL
	}
	for len(b) > 0 {
		if l.cr {
			if b[0] != '\n' {
				return errBareCR
			}
			l.cr, l.length, b = false, 0, b[1:]
			continue
		}
		end := bytes.IndexByte(b, '\n')
		line := b
		if end >= 0 {
			line = b[:end]
		}
		if cr := bytes.IndexByte(line, '\r'); cr >= 0 {
			l.cr = true
			line = line[:cr]
		} else if end >= 0 {
			return errBareLF
		}
		if l.length += len(line); l.length > MaxLine {
			return errLong
		}
		if b = b[len(line):]; l.cr {
			b = b[1:]
		}
	}
	return nil
}

// end reports what is missing at the end: a CRLF if the last line has none, as
// the host MTA would add.
func (l *lines) end() (missing string, err error) {
	if l.cr {
		return "", errBareCR
	}
	if l.length > 0 {
		return "\r\n", nil
	}
	return "", nil
}

// missingFields are the fields that Sendmail would have added when it sends
// (RFC 6409 section 8): Message-ID and Date. They go on top, so that everything
// from the client's first field on is as the client sent it. Postfix has added
// its own before a milter sees the header, where it adds any. An error says that
// Sendmail would add more, which depends on its configuration: a From field,
// rewritten as the admin has it, or the rest of a set of Resent fields (RFC 5322
// section 3.6.6).
func missingFields(fields []classify.Field, qid, host string, arrived time.Time) (string, error) {
	id, date, from := true, true, true
	for _, f := range fields {
		id = id && !strings.EqualFold(f.Name, "Message-ID")
		date = date && !strings.EqualFold(f.Name, "Date")
		from = from && !strings.EqualFold(f.Name, "From")
		if len(f.Name) > len("Resent-") && strings.EqualFold(f.Name[:len("Resent-")], "Resent-") {
			return "", errors.New("header has Resent fields, which Sendmail completes")
		}
	}
	if from {
		return "", errors.New("header has no From field, which Sendmail adds")
	}
	s := ""
	if id {
		s += "Message-ID: <" + arrived.UTC().Format("20060102150405.000000") + "." + atoms(qid, "0") + "@" + atoms(host, "localhost") + ">\r\n"
	}
	if date {
		s += "Date: " + arrived.Format("Mon, 2 Jan 2006 15:04:05 -0700") + "\r\n"
	}
	return s, nil
}

// withoutBcc are the fields as Sendmail sends them: of Bcc only the names, if there is no
// other field that names recipients, and nothing at all if there is one (RFC 5322
// section 3.6.3). Sendmail does so when it sends (conf.c: H_BCC; collect.c:
// EF_DELETE_BCC), and Postfix before a milter sees the header.
func withoutBcc(fields []classify.Field) []classify.Field {
	named := func(names ...string) bool {
		return slices.ContainsFunc(fields, func(f classify.Field) bool {
			return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(f.Name, n) })
		})
	}
	if !named("Bcc") {
		return fields
	}
	whole := named("To", "Cc", "Apparently-To")
	list := make([]classify.Field, 0, len(fields))
	for _, f := range fields {
		if strings.EqualFold(f.Name, "Bcc") {
			if whole {
				continue
			}
			f.Value = ""
		}
		list = append(list, f)
	}
	return list
}

// atoms keeps letters, digits, dots and hyphens of a macro's value.
func atoms(s, empty string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return -1
	}, s[:min(len(s), 255)])
	if s == "" {
		return empty
	}
	return s
}
