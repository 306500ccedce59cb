package outcomes

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
)

func (b *bench) put(at time.Time, from, to int) {
	for i := from; i < to; i++ {
		b.Add(sent(at, i))
	}
	b.fill()
}

func (b *bench) well() {
	b.t.Helper()
	if why := b.Trouble(); why != "" {
		b.t.Fatalf("%s\nlog:\n%s", why, b.logs.String())
	}
}

// A run has the keys of old attempts, the newest have none: both are found, once.
func TestKeysAndTailAreFoundOnce(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	b.put(noon, 0, 3000)
	if err := b.day.writeRun(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.put(noon, 3000, 6000)
	if err := b.day.writeRun(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := sent(noon, 5)
	again.Tries = 2
	b.Add(again)
	b.put(noon, 6000, 6100)
	for _, i := range []int{0, 2999, 3000, 5999, 6000, 6099} {
		r := sent(noon, i)
		for _, q := range []Question{{Recipient: r.Recipient}, {QueueID: r.QueueID}, {Message: r.ID}} {
			if got := b.ask(q); len(got) != 1 || got[0].ID != r.ID {
				t.Errorf("%+v: %+v", q, got)
			}
		}
	}
	if got := b.ask(Question{Message: again.ID}); len(got) != 2 || got[1].Tries != 2 {
		t.Errorf("%+v", got)
	}
	stream := "news"
	if got := b.ask(Question{Stream: &stream}); len(got) != 6101 {
		t.Errorf("%d of the stream", len(got))
	}
}

// All recipients of a message are found by the one key that it has in a run.
func TestMessageOfManyRecipients(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	for i := range 300 {
		r := sent(noon, 7)
		r.Ordinal, r.Recipient = uint32(i), fmt.Sprintf("many%d@example.com", i)
		b.Add(r)
		if i == 100 {
			b.Add(sent(noon, 8)) // another session's
		}
	}
	b.put(noon, 10, 20)
	if err := b.day.writeRun(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(b.ask(Question{QueueID: sent(noon, 7).QueueID})); n != 300 {
		t.Errorf("%d attempts", n)
	}
	for _, gone := range []string{"many0@example.com", "many101@example.com", "many50@example.com"} {
		if f, err := b.Forget(t.Context(), gone); err != nil || f.Rows != 1 {
			t.Errorf("%+v, %v", f, err)
		}
	}
	if n := len(b.ask(Question{QueueID: sent(noon, 7).QueueID})); n != 297 {
		t.Errorf("%d attempts after some are forgotten", n)
	}
}

func TestForgetLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Plain, Hashed} {
		dir := t.TempDir()
		p := week
		p.Recipients = mode
		b := begin(t, dir, p)
		const address = "robert.tables@example.com"
		bad := func(at time.Time) eventlog.Record {
			r := sent(at, 1)
			r.Recipient, r.Event, r.Code = address, "bounced", 550
			r.Reply = "550 5.1.1 <Robert.Tables@example.com>: no robert.tables here"
			return r
		}
		b.Add(bad(noon.Add(-24 * time.Hour)))
		b.put(noon.Add(-24*time.Hour), 10, 500)
		b.Add(bad(noon))
		b.put(noon, 500, 1000)
		if err := b.day.writeRun(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.Add(bad(noon))
		f, err := b.Forget(t.Context(), "Robert.TABLES@example.com")
		if err != nil || f.Rows != 2 || f.Events != 3 { // the third was erased in the log, before it was a row
			t.Errorf("mode %d: %+v, %v", mode, f, err)
		}
		if got := b.ask(Question{Recipient: address}); len(got) != 0 {
			t.Errorf("mode %d: %+v", mode, got)
		}
		if rows, _ := b.counts(); rows != 990 {
			t.Errorf("mode %d: %d rows", mode, rows)
		}
		b.well()
		b.Close()
		err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if strings.Contains(strings.ToLower(string(text)), "robert") {
				t.Errorf("mode %d: %s has the address still", mode, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestRecipientsAsConfigured(t *testing.T) {
	t.Parallel()
	for mode, found := range map[Mode]int{Plain: 1, Hashed: 1, None: 0} {
		p := week
		p.Recipients = mode
		b := begin(t, t.TempDir(), p)
		r := sent(noon, 1)
		r.Reply = "550 no " + r.Recipient + " and no user1 here"
		b.Add(r)
		b.fill()
		got := b.ask(Question{Recipient: strings.ToUpper(r.Recipient)})
		if len(got) != found {
			t.Errorf("mode %d: %+v", mode, got)
		}
		b.Close()
		text, err := os.ReadFile(b.dayPath(noon))
		if err != nil || strings.Contains(string(text), "user1") != (mode == Plain) {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
}

// A day that is changed again and again by a clock that steps has each event once.
func TestClockThatStepsBackwards(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := begin(t, dir, week)
	n := 0
	for range 4 {
		for _, at := range []time.Duration{0, 24 * time.Hour, -48 * time.Hour, 25 * time.Hour} {
			for range 30 {
				b.Add(sent(noon.Add(at), n))
				n++
			}
		}
		b.fill()
		b.well()
		b.Close()
		b = begin(t, dir, week)
		b.fill()
	}
	b.has(n, "in the end")
	if days := len(b.files()); days != 3 {
		t.Errorf("%d days", days)
	}
}

func TestOldDaysAreRemovedOneByOne(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), Policy{Keep: 48 * time.Hour})
	for day := range 4 {
		b.put(noon.Add(time.Duration(day-3)*24*time.Hour), 10*day, 10*day+10)
	}
	b.well()
	if n := len(b.files()); n != 4 {
		t.Fatalf("%d days", n)
	}
	for hour, want := range []int{3, 3, 3} { // the day before yesterday may have what is 48 hours old
		b.now = noon.Add(time.Duration(hour+1) * time.Hour)
		b.fill()
		if n := len(b.files()); n != want {
			t.Errorf("hour %d: %d days, want %d", hour, n, want)
		}
	}
	// A clock that is a year ahead for some minutes takes one day, not all.
	b.now = noon.Add(365 * 24 * time.Hour)
	for range 5 {
		b.fill()
		b.now = b.now.Add(time.Minute)
	}
	if n := len(b.files()); n != 2 {
		t.Errorf("%d days", n)
	}
}

func TestMaxSizeAndMinFreeTakeTheOldestDay(t *testing.T) {
	t.Parallel()
	p := week
	p.MaxSize = 300 << 10
	b := begin(t, t.TempDir(), p)
	for day := range 4 {
		b.put(noon.Add(time.Duration(day-3)*24*time.Hour), 1000*day, 1000*day+1000)
		b.now = b.now.Add(lookEvery)
	}
	b.now = b.now.Add(lookEvery)
	b.fill()
	b.well()
	files := b.files()
	if n := len(files); n == 0 || n >= 4 || files[n-1] != b.dayPath(noon) || b.size() > p.MaxSize {
		t.Errorf("%v, %d octets", files, b.size())
	}
	b.free, p.MinFree, p.MaxSize = 5, 10, 0
	b.Use(p)
	b.now = b.now.Add(lookEvery)
	b.fill()
	if n := len(b.files()); n != 1 || !strings.Contains(b.Trouble(), "min_free") {
		t.Errorf("%d days, trouble %q", n, b.Trouble())
	}
	rows, _ := b.counts()
	b.put(noon, 5000, 5010)
	if now, _ := b.counts(); now != rows {
		t.Errorf("rows were added without room: %d, %d before", now, rows)
	}
	b.free = math.MaxInt64
	b.now = b.now.Add(lookEvery)
	b.fill()
	b.well()
	if now, _ := b.counts(); now != rows+10 {
		t.Errorf("with room again: %d rows, %d before", now, rows)
	}
}

// A damaged file of today is made anew from the log; one that a look-up finds is set aside.
func TestDamagedFileIsBegunAnewFromTheLog(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"garbage": func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("this is no database. ", 5000)), 0o600)
		},
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"cut":   func(path string) error { return os.Truncate(path, 8192) },
		"other version": func(path string) error {
			db, err := sql.Open("sqlite", dsn(path, ""))
			if err == nil {
				_, err = db.Exec("PRAGMA user_version = 99")
				db.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := begin(t, dir, week)
			b.put(noon.Add(-24*time.Hour), 0, 100)
			b.put(noon, 100, 1000)
			b.well()
			b.Close()
			for _, path := range []string{b.dayPath(noon), b.totalsPath()} {
				if err := spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			b = begin(t, dir, week)
			b.Add(sent(noon, 1000))
			for range 4 { // each try sets one aside
				b.fill()
			}
			if why := b.Trouble(); (why == "") != (name == "empty") { // which an empty file is not
				t.Errorf("trouble %q", why)
			}
			b.now = b.now.Add(toldFor)
			b.well()
			b.has(1001, "in the end")
		})
	}
}

func TestDamageThatALookUpFinds(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	yesterday := noon.Add(-24 * time.Hour)
	b.put(yesterday, 0, 5000)
	b.put(noon, 5000, 5100)
	f, err := os.OpenFile(b.dayPath(yesterday), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := f.Stat()
	for at := int64(4 * 4096); at < info.Size(); at += 4096 {
		f.WriteAt(make([]byte, 2000), at)
	}
	f.Close()
	n := 0
	stream := "news"
	err = b.History(t.Context(), Question{Stream: &stream}, func(*Entry) error { n++; return nil })
	if err == nil || !strings.Contains(err.Error(), "damaged") || n < 100 {
		t.Errorf("%d rows, %v", n, err)
	}
	b.fill()
	if why := b.Trouble(); !strings.Contains(why, "damaged") {
		t.Errorf("trouble %q", why)
	}
	b.now = b.now.Add(toldFor)
	b.well()
	if got := b.ask(Question{Recipient: sent(noon, 5050).Recipient}); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	if list := beside(b.dayPath(yesterday)); len(list) != 1 || !strings.HasSuffix(list[0], ".damaged") {
		t.Errorf("%v", list)
	}
	if fgot, err := b.Forget(t.Context(), "user1@example1.com"); err != nil || fgot.Files != 1 {
		t.Errorf("%+v, %v", fgot, err)
	}
}

// Files whose schema is not there yet, as a look-up meets them beside the writer that begins
// them, and as a crash leaves them, are empty, and not damaged.
func TestFilesThatWereJustBegunAreNotDamaged(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	if err := os.MkdirAll(b.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{b.totalsPath(), b.dayPath(noon.Add(-24 * time.Hour)), b.dayPath(noon)} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := b.Past(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("charts: %v, %v", list, err)
	}
	if list := b.ask(Question{Recipient: "user1@example1.com"}); len(list) != 0 {
		t.Errorf("history: %v", list)
	}
	if f, err := b.Forget(t.Context(), "user1@example1.com"); err != nil || f != (Forgotten{}) {
		t.Errorf("forgotten: %+v, %v", f, err)
	}
	b.put(noon, 0, 10)
	b.well()
	rows := query(t, b.dayPath(noon), "SELECT count(*) FROM attempts")
	if totals := query(t, b.totalsPath(), "SELECT sum(n) FROM totals"); rows != 10 || totals != 10 || len(b.asides()) != 0 {
		t.Errorf("%d rows, %d counted, set aside %v", rows, totals, b.asides())
	}
}

// A reader that never ends lets the WAL grow: it is told, and beyond a bound the rows wait
// in the log. When the reader ends all is taken in.
func TestReaderThatNeverEnds(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	b.large, b.most = 1<<20, 4<<20
	b.put(noon, 0, 100)
	db, err := sql.Open("sqlite", dsn(b.dayPath(noon), "mode=ro"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := tx.QueryRow("SELECT count(*) FROM attempts").Scan(&n); err != nil || n != 100 {
		t.Fatal(n, err)
	}
	told := false
	added := 100
	for ; added < 60_000; added += 5000 {
		b.put(noon, added, added+5000)
		told = told || strings.Contains(b.Trouble(), "reading the database")
	}
	if wal, _ := sizeOf(b.dayPath(noon) + "-wal"); !told || wal > b.most+4<<20 {
		t.Errorf("told %v, a WAL of %d octets", told, wal)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	b.fill()
	b.well()
	b.has(added, "in the end")
	if wal, _ := sizeOf(b.dayPath(noon) + "-wal"); wal > b.most {
		t.Errorf("the WAL stays at %d octets", wal)
	}
}

// crash ends the log with what came so far, and nothing is taken in.
func (b *bench) crash() {
	b.t.Helper()
	l := b.events.Swap(nil)
	if err := errors.Join(l.Flush(b.t.Context()), l.Close(b.t.Context())); err != nil {
		b.t.Fatal(err)
	}
	b.Close()
}

// What the log loses stands as a gap, in the rows and in the counts.
func TestGapIsARowAndIsCounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := begin(t, dir, week)
	b.put(noon, 0, 100)
	b.Close()
	for n := 100; n < 300; n += 100 {
		b = begin(t, dir, week)
		for i := n; i < n+100; i++ {
			b.Add(sent(noon, i))
		}
		b.crash()
	}
	segments, err := filepath.Glob(filepath.Join(dir, "events", "*.log"))
	if err != nil || len(segments) != 3 {
		t.Fatal(segments, err)
	}
	if err := os.Remove(segments[1]); err != nil {
		t.Fatal(err)
	}
	b = begin(t, dir, week)
	b.fill()
	if why := b.Trouble(); !strings.HasPrefix(why, "100 events are missing") {
		t.Errorf("trouble %q", why)
	}
	b.now = b.now.Add(toldFor)
	b.well()
	rows, totals := b.counts()
	if lost := b.Stats().Lost; rows != 201 || totals != 300 || lost != 100 {
		t.Errorf("%d rows, %d counted, %d lost", rows, totals, lost)
	}
	if n := query(t, b.dayPath(noon), "SELECT count(*) FROM outcomes WHERE event = 'gap' AND reply LIKE '100 events are lost%'"); n != 1 {
		t.Errorf("%d gaps", n)
	}
}

func TestNothingIsKeptAfterItIsTurnedOff(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	b.put(noon, 0, 10)
	b.Use(Policy{})
	gone := func(when string) {
		t.Helper()
		if _, err := os.Stat(b.eventsDir()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s the events are there, with their addresses (%v)", when, err)
		}
	}
	gone("turned off,")
	if err := os.MkdirAll(b.eventsDir(), 0o700); err != nil { // turned off while nothing ran
		t.Fatal(err)
	}
	b.Use(Policy{})
	gone("begun without them,")
	b.put(noon, 10, 20)
	if rows, _ := b.counts(); rows != 10 {
		t.Errorf("%d rows", rows)
	}
	if err := b.History(t.Context(), Question{Recipient: "a@b.test"}, nil); err == nil {
		t.Error("an answer")
	}
	b.Use(week)
	b.put(noon, 20, 30)
	b.well()
	b.has(20, "on again")
}

// Files that somebody removes, replaces or cuts while they are in use are made anew from the
// log, and that is told for an hour.
func TestFilesThatAreTakenAwayWhileTheyAreInUse(t *testing.T) {
	t.Parallel()
	replace := func(path string) error {
		return errors.Join(os.Rename(path, path+".mine"), os.WriteFile(path, []byte("not a database, but of some length"), 0o600))
	}
	for name, spoil := range map[string]func(path string) error{
		"removed": os.Remove, "cut": func(path string) error { return os.Truncate(path, 0) }, "replaced": replace,
		"removed with what is beside": func(path string) error {
			return errors.Join(os.Remove(path), os.Remove(path+"-wal"), os.Remove(path+"-shm"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := begin(t, t.TempDir(), week)
			b.put(noon.Add(-24*time.Hour), 0, 100)
			b.put(noon, 100, 1000)
			b.well()
			for _, path := range []string{b.dayPath(noon), b.totalsPath()} {
				if err := spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			b.now = b.now.Add(lookEvery)
			b.Add(sent(noon, 1000))
			for range 4 { // each try sets one aside
				b.fill()
			}
			b.has(1001, "in the end")
			if why := b.Trouble(); !strings.Contains(why, "begun anew") {
				t.Errorf("trouble %q", why)
			}
			b.now = b.now.Add(toldFor)
			b.well()
			if err := os.RemoveAll(b.dir()); err != nil { // all of them
				t.Fatal(err)
			}
			b.now = b.now.Add(lookEvery)
			b.put(noon, 1001, 1010)
			b.fill()
			b.has(1010, "without a directory")
		})
	}
}

// A clock that is years ahead for some minutes takes a day of counts of each width, not all,
// and the file that it has made goes once the clock is right again.
func TestClockThatIsAheadForSomeMinutes(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	for day := range 30 {
		b.put(noon.Add(time.Duration(day-29)*24*time.Hour), 10*day, 10*day+10)
	}
	b.well()
	_, before := b.counts()
	b.now = noon.Add(20 * 365 * 24 * time.Hour)
	b.put(b.now, 300, 310)
	for range 5 {
		b.now = b.now.Add(time.Minute)
		b.fill()
	}
	if _, after := b.counts(); after < before+10-3*10 {
		t.Errorf("%d counted, %d before", after, before)
	}
	ahead := b.dayPath(b.now)
	if _, err := os.Stat(ahead); err != nil {
		t.Error(err)
	}
	for hour := range 3 {
		b.now = noon.Add(time.Duration(hour)*time.Hour + 10*time.Minute)
		b.put(b.now, 310+hour, 311+hour)
	}
	b.well()
	if _, err := os.Stat(ahead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s stays (%v)", ahead, err)
	}
}

// A day that is larger than max_size stops at that size, and the next day goes on.
func TestDayLargerThanMaxSize(t *testing.T) {
	t.Parallel()
	p := week
	p.MaxSize = 200 << 10
	b := begin(t, t.TempDir(), p)
	n := 0
	for day := range 3 {
		at := noon.Add(time.Duration(day) * 24 * time.Hour)
		b.now = at
		for range 4 {
			b.put(b.now, n, n+2000)
			n += 2000
			b.now = b.now.Add(lookEvery)
		}
		b.fill()
		if why := b.Trouble(); !strings.Contains(why, "max_size") {
			t.Errorf("day %d: trouble %q", day, why)
		}
		rows := 0
		if _, err := os.Stat(b.dayPath(at)); err == nil {
			rows = query(t, b.dayPath(at), "SELECT count(*) FROM attempts")
		}
		if rows == 0 || len(b.files()) != 1 {
			t.Errorf("day %d: %d rows, %v", day, rows, b.files())
		}
	}
}

// A reader of totals.db is told like one of the rows.
func TestReaderOfTotalsThatNeverEnds(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	b.large, b.most = 40<<10, 160<<10
	b.put(noon, 0, 100)
	db, err := sql.Open("sqlite", dsn(b.totalsPath(), "mode=ro"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := tx.QueryRow("SELECT sum(n) FROM totals").Scan(&n); err != nil || n != 100 {
		t.Fatal(n, err)
	}
	told, added := false, 100
	for i := range 20 {
		b.put(noon.Add(time.Duration(i)*5*time.Minute), added, added+100)
		added += 100
		if wal, _ := sizeOf(b.totalsPath() + "-wal"); wal >= b.large && !told {
			b.fill()
			if told = true; wal >= b.most || !strings.Contains(b.Trouble(), "totals.db-wal") {
				t.Errorf("a WAL of %d octets, trouble %q", wal, b.Trouble())
			}
			if n := strings.Count(b.logs.String(), "kept again"); n > 0 {
				t.Errorf("%d times kept again", n)
			}
		}
	}
	if wal, _ := sizeOf(b.totalsPath() + "-wal"); !told || wal > b.most+100<<10 {
		t.Errorf("told %v, a WAL of %d octets", told, wal)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	b.fill()
	b.well()
	b.has(added, "in the end")
}

// Where no attempts are kept no addresses are either: not those of new events, and not those
// that the log has from before. The counts have them all.
func TestNoAddressIsStoredWhereNoAttemptsAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := begin(t, dir, week)
	b.put(noon, 0, 100)
	for i := 100; i < 200; i++ {
		b.Add(sent(noon, i)) // not taken in yet
	}
	p := week
	p.Keep = 0
	b.Use(p)
	b.put(noon, 200, 300)
	b.well()
	none := func(when string) {
		t.Helper()
		segments, err := filepath.Glob(filepath.Join(b.eventsDir(), "*.log"))
		if err != nil || len(segments) == 0 {
			t.Errorf("%s: %v, %v", when, segments, err)
		}
		for _, path := range segments {
			if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), "user") {
				t.Errorf("%s: %s has addresses (%v)", when, path, err)
			}
		}
		if _, totals := b.counts(); totals != 300 {
			t.Errorf("%s: %d counted", when, totals)
		}
	}
	none("after a reload")
	b.Close()
	b = begin(t, t.TempDir(), week)
	for i := range 300 {
		b.Add(sent(noon, i))
	}
	b.crash()
	b = begin(t, b.o.StateDirectory, p)
	b.fill()
	b.well()
	none("after a restart")
}

// Without the key of their hashes recipients are not kept, and that is told, by a question
// too.
func TestKeyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	b.put(noon, 0, 10)
	key := filepath.Join(b.dir(), keyFile)
	if err := os.WriteFile(key, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := week
	p.Recipients = Hashed
	b.Use(p)
	b.put(noon, 10, 20)
	if why := b.Trouble(); !strings.Contains(why, key) {
		t.Errorf("trouble %q", why)
	}
	n := 0
	err := b.History(t.Context(), Question{Recipient: sent(noon, 5).Recipient}, func(*Entry) error { n++; return nil })
	if err == nil || !strings.Contains(err.Error(), key) || n != 1 {
		t.Errorf("%d attempts, %v", n, err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	b.Use(p)
	b.put(noon, 20, 30)
	b.well()
	if got := b.ask(Question{Recipient: sent(noon, 25).Recipient}); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// A file that is removed while nothing has it open, after Forget, is made anew as well.
func TestFileThatIsRemovedAfterForget(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	b.put(noon, 0, 100)
	if _, err := b.Forget(t.Context(), sent(noon, 5).Recipient); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.dayPath(noon)); err != nil {
		t.Fatal(err)
	}
	b.put(noon, 100, 110)
	if rows, totals := b.counts(); rows != 109 || totals != 110 {
		t.Errorf("%d rows, %d counted", rows, totals)
	}
}

// An address that got very much, as a test account does, is forgotten as a whole.
func TestForgetIsNotBounded(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), Policy{Keep: week.Keep})
	b.found = 10
	const n = 25
	for i := range n {
		r := sent(noon, i)
		r.Recipient = "probe@example.com"
		b.Add(r)
	}
	b.fill()
	if got := b.ask(Question{Recipient: "probe@example.com"}); len(got) != b.found {
		t.Errorf("a question is told of %d", len(got))
	}
	f, err := b.Forget(t.Context(), "probe@example.com")
	if rows, _ := b.counts(); err != nil || f.Rows != n || rows != 0 {
		t.Errorf("%+v, %d rows are left, %v", f, rows, err)
	}
}
