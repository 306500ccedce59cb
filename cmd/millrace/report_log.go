package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// verdict is one line of millrace-milter's log about one message.
type verdict struct {
	Time      time.Time `json:"time"` // zero: the line has none
	Msg       string    `json:"msg"`  // "verdict", or "verdict lost": the MTA was not told and keeps the message
	QueueID   string    `json:"qid"`
	From      string    `json:"from"`
	NRcpt     int       `json:"nrcpt"`
	Diverted  int       `json:"diverted"`
	Verdict   string    `json:"verdict"` // observe, delrcpt, discard, inlet, leave or tempfail
	Rule      string    `json:"rule"`
	Stream    string    `json:"stream"`
	Reason    string    `json:"reason"`
	Evidence  string    `json:"evidence"`   // "opt-in,volume"; "" if no evidence decided, or in older logs
	ToDomains string    `json:"to_domains"` // "gmail.com:40,web.de:3,other:12"
}

// maxLine is the longest line that is looked at, in octets. A verdict is one of
// some hundred; what is longer than this is not ours.
const maxLine = 64 << 10

// readVerdicts calls each for every verdict in a log, plain or gzipped. Lines of
// other programs are passed over.
func readVerdicts(r io.Reader, clock logClock, each func(*verdict)) error {
	in := bufio.NewReaderSize(r, maxLine)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) { // RFC 1952
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		in = bufio.NewReaderSize(z, maxLine)
	}
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
			line = nil
		}
		if bytes.Contains(line, []byte("verdict")) {
			if v, ok := clock.parse(strings.TrimRight(string(line), "\r\n")); ok {
				each(v)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// logClock reads the times of a log: those without a zone are of loc, and those
// without a year of the year before now.
type logClock struct {
	now time.Time
	loc *time.Location
}

// parse reads a line, with or without the prefix of syslog or the journal. A
// line is ours by the program's name in the prefix, not by what it says: other
// programs log what strangers wrote.
func (c logClock) parse(line string) (*verdict, bool) {
	var stamp string
	if !beginsRecord(line) {
		var ok bool
		if stamp, line, ok = cutPrefix(line); !ok || !beginsRecord(line) {
			return nil, false
		}
	}
	v := &verdict{}
	if line[0] == '{' {
		if json.Unmarshal([]byte(line), v) != nil {
			return nil, false
		}
	} else {
		v.logfmt(line)
	}
	if v.Msg != "verdict" && v.Msg != "verdict lost" || v.Verdict == "" {
		return nil, false
	}
	v.NRcpt = max(v.NRcpt, 0)
	v.Diverted = min(max(v.Diverted, 0), v.NRcpt)
	if v.Time.IsZero() {
		v.Time = c.stamp(stamp)
	}
	return v, true
}

// beginsRecord reports whether a line begins as slog writes it.
func beginsRecord(line string) bool {
	for _, p := range []string{"time=", "level=", "msg=", "{"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

// cutPrefix takes "TIME HOST millrace-milter[PID]: " off a line; HOST may be
// missing. TIME is "Jan _2 15:04:05" or one word.
func cutPrefix(line string) (stamp, rest string, ok bool) {
	if len(line) > len(time.Stamp) && line[3] == ' ' && line[6] == ' ' {
		stamp, rest = line[:len(time.Stamp)], strings.TrimPrefix(line[len(time.Stamp):], " ")
	} else {
		stamp, rest, _ = strings.Cut(line, " ")
	}
	for range 2 { // the host and the tag, or the tag
		var word string
		if word, rest, ok = strings.Cut(rest, " "); !ok {
			return "", "", false
		}
		if tag, isTag := strings.CutSuffix(word, ":"); isTag {
			tag, _, _ = strings.Cut(tag, "[")
			// The second is its name in Postfix's form ([log] format).
			rest = strings.TrimPrefix(strings.TrimPrefix(rest, "warning: "), "error: ")
			return stamp, rest, tag == "millrace-milter" || tag == "millrace/milter"
		}
	}
	return "", "", false
}

// stamp reads the time of a prefix; zero if it is none.
func (c logClock) stamp(s string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999-0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	t, err := time.Parse(time.Stamp, s)
	if err != nil {
		return time.Time{}
	}
	in := func(year int) time.Time {
		return time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, c.loc)
	}
	now := c.now.In(c.loc)
	if at := in(now.Year()); at.Before(now.AddDate(0, 0, 1)) {
		return at
	}
	return in(now.Year() - 1)
}

// logfmt reads slog's key=value pairs. What a log daemon cut off at the end is
// missing then; the first of two pairs with one key counts.
func (v *verdict) logfmt(line string) {
	seen := map[string]bool{}
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		key, rest, ok := strings.Cut(line, "=")
		if !ok {
			return
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return
			}
			value, _ = strconv.Unquote(quoted) // cannot fail: it is a quoted prefix
			line = rest[len(quoted):]
		} else {
			value, line, _ = strings.Cut(rest, " ")
		}
		if !seen[key] {
			seen[key] = true
			v.set(key, value)
		}
	}
}

func (v *verdict) set(key, value string) {
	switch key {
	case "time":
		v.Time, _ = time.Parse(time.RFC3339Nano, value) // zero: the prefix may have one
	case "msg":
		v.Msg = value
	case "qid":
		v.QueueID = value
	case "from":
		v.From = value
	case "nrcpt":
		v.NRcpt, _ = strconv.Atoi(value)
	case "diverted":
		v.Diverted, _ = strconv.Atoi(value)
	case "evidence":
		v.Evidence = value
	case "verdict":
		v.Verdict = value
	case "rule":
		v.Rule = value
	case "stream":
		v.Stream = value
	case "reason":
		v.Reason = value
	case "to_domains":
		v.ToDomains = value
	}
}
