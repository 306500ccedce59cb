package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
)

// noon is when the reports of these tests are made.
var noon = logClock{time.Date(2026, 3, 3, 12, 0, 0, 0, time.UTC), time.UTC}

// reportOf reads a log and prints its account.
func reportOf(t *testing.T, c reportCmd, log []byte) (*account, string) {
	t.Helper()
	a, err := c.period(noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := readVerdicts(bytes.NewReader(log), noon, a.add); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if c.JSON {
		err = a.json(&out, c.Top)
	} else {
		err = a.print(&out, c.Top, time.UTC)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, out.String()
}

func mailLogFixture(t *testing.T) []byte {
	t.Helper()
	log, err := os.ReadFile("testdata/report/mail.log")
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// TestReportOfALog compares the reports of one log, which has every form of
// prefix and what strangers try to write into it.
func TestReportOfALog(t *testing.T) {
	t.Parallel()
	log := mailLogFixture(t)
	for name, c := range map[string]reportCmd{
		"all.txt":    {},
		"day.txt":    {Since: "2026-03-02", Until: "2026-03-03", Top: 2},
		"all.json":   {JSON: true},
		"lists.json": {JSON: true, Since: "2026-03-02 09:00:10", Until: "2026-03-02T09:02:00Z", Top: 1},
		"none.txt":   {Since: "1h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, got := reportOf(t, c, log)
			sum := a.diverted
			for _, other := range []tally{a.observed, a.left, a.deferred} {
				sum.add(other.Messages, other.Recipients)
			}
			if sum != a.judged {
				t.Errorf("the parts make %+v, the whole is %+v", sum, a.judged)
			}
			if strings.Contains(got, "FORGED") || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x202e || r == 0x7f }) {
				t.Errorf("hostile:\n%s", got)
			}
			file := filepath.Join("testdata/report", name)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestReportCommandReadsFilesAndStandardInput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := mailLogFixture(t)
	half := bytes.Index(log, []byte("Mar 02 09:02:00"))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(log[:half]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	older, newer := filepath.Join(dir, "mail.log.1.gz"), filepath.Join(dir, "mail.log")
	for name, b := range map[string][]byte{older: z.Bytes(), newer: log[half:], filepath.Join(dir, "cut.gz"): z.Bytes()[:z.Len()/2]} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	judged := func(r result) (out struct{ Judged, Diverted tally }) {
		t.Helper()
		if r.code != 0 {
			t.Fatalf("%+v", r)
		}
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := judged(millrace(t, "TZ=UTC", "report", "--json", older, newer)); got.Judged.Messages != 19 || got.Diverted.Messages != 5 {
		t.Errorf("two files: %+v", got)
	}
	if got := judged(millrace(t, "TZ=UTC", "report", "--json", "--until=2026-03-02 09:00:02", older)); got.Judged != (tally{1, 3}) {
		t.Errorf("the first second: %+v", got)
	}
	if r := millrace(t, "TZ=UTC", "report"); r.code != 0 || !strings.Contains(r.stdout, "No verdict was found") {
		t.Errorf("empty standard input: %+v", r)
	}
	for says, args := range map[string][]string{
		"unexpected EOF":             {"report", filepath.Join(dir, "cut.gz")},
		"no such file":               {"report", filepath.Join(dir, "none")},
		`--since: "noon" is no time`: {"report", "--since=noon"},
		"--top: -1":                  {"report", "--top=-1"},
	} {
		if r := millrace(t, "TZ=UTC", args...); r.code == 0 || !strings.Contains(r.stderr, says) {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// TestReportReadsBackWhatSlogWrote has every hostile value survive both forms of
// slog, behind a prefix too.
func TestReportReadsBackWhatSlogWrote(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "plain", "two words", `a"b\c`, "x\r\ny\x00\x1b[2J", "é\u202e\xff", "msg=verdict verdict=leave", "=", `"`} {
		want := verdict{
			Msg: "verdict", QueueID: value, From: value, NRcpt: 3, Diverted: 2, Verdict: "observe",
			Rule: value, Stream: value, Reason: value, ToDomains: value, Time: noon.now,
		}
		for form, handler := range map[string]func(*bytes.Buffer) slog.Handler{
			"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			if form == "json" && strings.Contains(value, "\xff") {
				continue // JSON has no way to write it
			}
			var b bytes.Buffer
			r := slog.NewRecord(noon.now, slog.LevelInfo, "verdict", 0)
			r.Add("qid", value, "from", value, "nrcpt", 3, "diverted", 2, "verdict", "observe",
				"rule", value, "stream", value, "reason", value, "to_domains", value)
			if err := handler(&b).Handle(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			for _, prefix := range []string{"", "Mar  3 11:00:00 mx millrace-milter[7]: ", "2026-03-03T11:00:00Z millrace-milter: ", "Mar  3 11:00:00 mx millrace/milter[7]: warning: "} {
				got, ok := noon.parse(prefix + strings.TrimSuffix(b.String(), "\n"))
				if !ok || !reflect.DeepEqual(*got, want) {
					t.Errorf("%s, prefix %q, value %q: %+v", form, prefix, value, got)
				}
			}
		}
	}
}

func TestReportSkipsEndlessLines(t *testing.T) {
	t.Parallel()
	ours := "level=INFO msg=verdict qid=Q from=a@b.example nrcpt=1 diverted=1 verdict=observe\n"
	long := "level=INFO msg=verdict verdict=observe nrcpt=1 diverted=1 stream=" + strings.Repeat("x", 3*maxLine) + "\n"
	for _, log := range []string{ours + long + ours, long + ours + ours, ours + ours + strings.TrimSuffix(long, "\n")} {
		if a, _ := reportOf(t, reportCmd{}, []byte(log)); a.judged != (tally{2, 2}) {
			t.Errorf("%+v", a.judged)
		}
	}
}

// TestTablesAreBoundedAndTheirSumsExact adds ten times as many names as a table
// holds, and one that is among the largest all the time.
func TestTablesAreBoundedAndTheirSumsExact(t *testing.T) {
	t.Parallel()
	table := newTable()
	var want tally
	for i := range 10 * maxRows {
		table.add(fmt.Sprintf("small %d", i), "Q", 1)
		want.add(1, 1)
		if i%100 == 0 {
			table.add("large", fmt.Sprintf("L%d", i), 5)
			want.add(1, 5)
		}
		if len(table.rows) > maxRows {
			t.Fatalf("%d rows", len(table.rows))
		}
	}
	rows, others := table.top(3)
	sum := others
	for _, r := range rows {
		sum.add(r.Messages, r.Recipients)
	}
	if sum != want || !table.pruned {
		t.Errorf("sum %+v, want %+v", sum, want)
	}
	if n := 10 * maxRows / 100; rows[0].Name != "large" || rows[0].tally != (tally{n, 5 * n}) || strings.Join(rows[0].QueueIDs, " ") != "L0 L100 L200" {
		t.Errorf("first row %+v", rows[0])
	}
}

func TestReportTimes(t *testing.T) {
	t.Parallel()
	berlin := time.FixedZone("CET", 3600)
	clock := logClock{time.Date(2026, 3, 3, 12, 0, 0, 0, berlin), berlin}
	for in, want := range map[string]string{
		"":                     "0001-01-01T00:00:00Z",
		"24h":                  "2026-03-02T12:00:00+01:00",
		"1d12h":                "2026-03-02T00:00:00+01:00",
		"09:30":                "2026-03-03T09:30:00+01:00",
		"2026-03-01":           "2026-03-01T00:00:00+01:00",
		"2026-03-01 08:15":     "2026-03-01T08:15:00+01:00",
		"2026-03-01T08:15:30":  "2026-03-01T08:15:30+01:00",
		"2026-03-01T08:15:30Z": "2026-03-01T08:15:30Z",
	} {
		if got, err := clock.bound(in); err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("bound %q: %v, %v; want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"Mar  3 11:59:59":                 "2026-03-03T11:59:59+01:00",
		"Mar  4 11:00:00":                 "2026-03-04T11:00:00+01:00", // a clock ahead
		"Mar  5 11:00:00":                 "2025-03-05T11:00:00+01:00",
		"Dec 31 23:59:59":                 "2025-12-31T23:59:59+01:00",
		"2026-03-02T09:00:00.123456+0100": "2026-03-02T09:00:00+01:00",
		"2026-03-02T09:00:00.123Z":        "2026-03-02T09:00:00Z",
		"yesterday":                       "0001-01-01T00:00:00Z",
	} {
		if got := clock.stamp(in).Format(time.RFC3339); got != want {
			t.Errorf("stamp %q: %s, want %s", in, got, want)
		}
	}
}

// FuzzReport wants the report of any log to add up and to be fit for a terminal.
func FuzzReport(f *testing.F) {
	log, err := os.ReadFile("testdata/report/mail.log")
	if err != nil {
		f.Fatal(err)
	}
	for l := range bytes.Lines(log) {
		f.Add(l)
	}
	f.Add(log)
	f.Fuzz(func(t *testing.T, log []byte) {
		a, err := (&reportCmd{}).period(noon)
		if err != nil {
			t.Fatal(err)
		}
		if readVerdicts(bytes.NewReader(log), noon, a.add) != nil {
			return // no gzip
		}
		var out strings.Builder
		if err := a.print(&out, 0, time.UTC); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if line = strings.TrimSuffix(line, "\n"); strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("%q", line)
			}
		}
		want := tally{a.observed.Messages + a.diverted.Messages, a.observed.Recipients + a.diverted.Recipients}
		for _, table := range []*table{&a.rules, &a.streams, &a.senders, &a.domains} {
			_, sum := table.top(1)
			for _, e := range table.sorted()[:min(1, len(table.rows))] {
				sum.add(e.Messages, e.Recipients)
			}
			if table == &a.domains {
				sum.Messages = want.Messages // one message is in the rows of several domains
			}
			if sum != want {
				t.Fatalf("a table has %+v, %+v were diverted", sum, want)
			}
		}
	})
}

// TestReportShowsDoubtfulStreamsFirst reads what a milter logs of evidence. A stranger who
// can write lines cannot make families of his own.
func TestReportShowsDoubtfulStreamsFirst(t *testing.T) {
	t.Parallel()
	line := func(stream, evidence string, n int) string {
		return fmt.Sprintf("Mar  2 09:00:00 mail millrace-milter[7]: level=INFO msg=verdict qid=Q%d from=a@b.example nrcpt=%d diverted=%d verdict=observe rule=builtin stream=%s reason=x evidence=%s\n",
			n, n, n, stream, evidence)
	}
	log := line("list", "opt-in,list-software", 50) + line("blast", "opt-in,volume", 3) + line("blast", "structure,volume", 1) +
		line("named", "structure,opt-in", 2) + line("odd", "opt-in,,\x1b[2J,x", 1) + line("rule", `""`, 9)
	_, got := reportOf(t, reportCmd{}, []byte(log))
	first := got[strings.Index(got, "Look at these First"):strings.Index(got, "by Rule")]
	for _, want := range []string{"4   blast (opt-in, structure, volume)", "2   named (opt-in, structure)", "1   odd (opt-in)"} {
		if !strings.Contains(first, want) {
			t.Errorf("doubtful are\n%s\nwithout %q", first, want)
		}
	}
	if strings.Contains(first, "list (") || strings.Contains(first, "rule") {
		t.Errorf("doubtful are\n%s", first)
	}
	if !strings.Contains(got, "50   list (list-software, opt-in)") {
		t.Errorf("streams are\n%s", got)
	}
	_, got = reportOf(t, reportCmd{JSON: true}, []byte(log))
	if !strings.Contains(got, `"doubtful": [`) || !strings.Contains(got, `"evidence": [`) {
		t.Errorf("JSON is\n%s", got)
	}
}

// What the inlet has spooled was diverted, as what the milter has.
func TestReportCountsWhatTheInletSpooled(t *testing.T) {
	t.Parallel()
	const line = `level=INFO msg=verdict qid=I1-1 from=news@example.com nrcpt=2 diverted=2 verdict=inlet rule=builtin stream=weekly reason="List-Id" to_domains=gmail.com:2` + "\n"
	a, out := reportOf(t, reportCmd{}, []byte(line+strings.Replace(strings.Replace(line, "msg=verdict", `msg="verdict lost"`, 1), "level=INFO", "level=WARN", 1)))
	if a.diverted != (tally{1, 2}) || a.left != (tally{1, 2}) {
		t.Errorf("diverted %+v, left %+v:\n%s", a.diverted, a.left, out)
	}
	if !strings.Contains(out, "gmail.com") || !strings.Contains(out, "weekly") {
		t.Error(out)
	}
}
