package outcomes

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"modernc.org/sqlite"

	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/spool"
)

// schemaVersion is the user_version of the files of a day, and of totals.db.
const schemaVersion = 1

// sourcesTable is not a part of kinds, as an agent that knows of no sources names no columns
// there.
const sourcesTable = "CREATE TABLE sources (kind INTEGER PRIMARY KEY, source TEXT NOT NULL);"

// daySchema is that of the file of a day; millrace-events(5) has it for admins.
const daySchema = `
CREATE TABLE cursor (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER NOT NULL, offset INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE kinds (id INTEGER PRIMARY KEY, event TEXT NOT NULL, class TEXT, hard INTEGER, code INTEGER, dsn TEXT, rule TEXT, stream TEXT,
	domain TEXT, queue TEXT, site TEXT, relay TEXT, report INTEGER, before TEXT, after TEXT);
CREATE TABLE attempts (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, message INTEGER NOT NULL, ordinal INTEGER NOT NULL, qid TEXT,
	recipient, kind INTEGER NOT NULL, words TEXT, tries INTEGER NOT NULL, due INTEGER);
` + sourcesTable + `
CREATE TABLE runs (id INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL);
CREATE TABLE keys (run INTEGER NOT NULL, first INTEGER NOT NULL, list BLOB NOT NULL, PRIMARY KEY (run, first)) WITHOUT ROWID;
CREATE VIEW outcomes AS SELECT strftime('%Y-%m-%dT%H:%M:%fZ', a.time / 1000.0, 'unixepoch') AS time, k.event,
	printf('M%X-%X', a.message >> 32, a.message & 4294967295) AS id, a.ordinal, a.qid, a.recipient, k.stream, k.domain, k.queue, k.site, k.relay,
	a.tries, k.class, k.hard, k.rule, k.code, k.dsn, k.before || coalesce(a.words, '') || k.after AS reply,
	strftime('%Y-%m-%dT%H:%M:%fZ', a.due / 1000.0, 'unixepoch') AS due, k.report, s.source
	FROM attempts a JOIN kinds k ON k.id = a.kind LEFT JOIN sources s ON s.kind = a.kind;
`

const (
	// runRows is how many attempts have their keys sorted and written at once. The newest
	// ones, fewer than that, have none yet: a look-up reads them all, at an eighth of a
	// microsecond each.
	runRows = 1 << 18
	// insertRows is how many rows one statement inserts: a statement for each would cost
	// half as much again.
	insertRows = 50
	// maxFresh is how many new kinds a transaction may make before replies are kept whole.
	maxFresh = 200
	// maxKinds bounds the kinds that are remembered. What is forgotten gets another row.
	maxKinds = 1 << 16
	// autoCheckpoint is in pages of 4 KiB: a checkpoint syncs twice.
	autoCheckpoint = 4096
)

// kind is what attempts have in common.
type kind struct {
	event, class, dsn, rule, stream, domain, queue, site, relay, source, before, after string
	code                                                                               int
	hard, report                                                                       bool
}

// database is a file that is open for writing.
type database struct {
	path string
	file fs.FileInfo // as it was last; nil: not looked at yet
	db   *sql.DB
	conn *sql.Conn
}

// day is the file of a day.
type day struct {
	*database
	insert  driver.StmtExecContext // insertRows attempts
	one     driver.StmtExecContext
	addKind *sql.Stmt
	addFrom *sql.Stmt
	addKeys *sql.Stmt

	cursor  eventlog.Cursor
	next    int64 // id of the next attempt
	runs    int64
	pending keys  // of attempts after the last run
	first   int64 // the first attempt without keys
	low     int64 // least message among them
	high    int64
	kinds   map[kind]int64
	kindID  int64 // the last one given
	fresh   int   // kinds that the transaction has made
	lastID  spool.ID
	args    []driver.NamedValue
}

// dsn names a database file for the driver.
func dsn(path string, query string) string {
	return "file:" + (strings.NewReplacer("?", "%3f", "#", "%23", "%", "%25").Replace(path)) + "?" + query
}

// openDB opens a file for writing and makes its schema in one transaction.
func openDB(ctx context.Context, path, schema string) (*database, error) {
	// Nobody but the admin is to read addresses; SQLite would make it by the umask. One that
	// is there is not opened: to close it again would end the locks that SQLite has on it
	// in this process (https://sqlite.org/howtocorrupt.html, section 2.2).
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		// What was left beside one that somebody removed is not this one's: SQLite would
		// take the WAL over into it.
		for _, end := range []string{"-wal", "-shm"} {
			if err := os.Remove(path + end); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// synchronous=NORMAL: a commit waits for no sync; power loss takes the last commits
	// whole, rows and cursor, and they are made anew from the log. Without secure_delete a
	// page that is split leaves copies of rows behind, which Forget would not find.
	db, err := sql.Open("sqlite", dsn(path, fmt.Sprintf("_pragma=busy_timeout(100)&_pragma=journal_mode(wal)&_pragma=synchronous(normal)"+
		"&_pragma=wal_autocheckpoint(%d)&_pragma=cache_size(-8000)&_pragma=secure_delete(fast)", autoCheckpoint)))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	version := 0
	err = conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
	switch {
	case err != nil:
	case version == 0:
		_, err = conn.ExecContext(ctx, fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA user_version = %d; COMMIT", schema, schemaVersion))
	case version != schemaVersion:
		err = fmt.Errorf("%w: its version is %d", errVersion, version)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close(), db.Close())
	}
	return &database{path: path, db: db, conn: conn}, nil
}

var errVersion = errors.New("a file of another version of Millrace")

// unusable reports whether a file will never be of use again.
func unusable(err error) bool {
	if errors.Is(err, errVersion) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case 1: // SQLITE_ERROR: of our statements, only where a table is not what it should be
		return strings.Contains(e.Error(), "no such") || strings.Contains(e.Error(), "malformed") || strings.Contains(e.Error(), "already exists")
	case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
		return true
	}
	return e.Code() == 522 // SQLITE_IOERR_SHORT_READ
}

func openDay(ctx context.Context, path string) (_ *day, err error) {
	d := &day{kinds: make(map[kind]int64)}
	if d.database, err = openDB(ctx, path, daySchema); err != nil {
		return nil, err
	}
	if err := d.load(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// load reads what the file has, and prepares the statements.
func (d *day) load(ctx context.Context) error {
	var err error
	if d.cursor, err = readCursor(ctx, d.conn); err != nil {
		return err
	}
	row := d.conn.QueryRowContext(ctx, "SELECT (SELECT coalesce(max(id), 0) FROM attempts), (SELECT coalesce(max(id), 0) FROM kinds), (SELECT coalesce(max(id), 0) FROM runs), (SELECT coalesce(max(last), 0) FROM runs)")
	var last, indexed int64
	if err := row.Scan(&last, &d.kindID, &d.runs, &indexed); err != nil {
		return err
	}
	d.next, d.first = last+1, indexed+1
	if there, err := hasSources(ctx, d.conn); err != nil {
		return err
	} else if !there { // of an agent that knew of none, which goes on to read and write this file
		if _, err := d.conn.ExecContext(ctx, sourcesTable); err != nil {
			return err
		}
	}
	if err := d.loadKinds(ctx); err != nil {
		return err
	}
	if err := d.loadPending(ctx); err != nil {
		return err
	}
	// Rows after the first of a statement get the ids that follow its id, which is the greatest.
	const columns = "?,?,?,?,?,?,?,?,?)"
	const into = "INSERT INTO attempts (id, time, message, ordinal, qid, recipient, kind, words, tries, due) VALUES (?," + columns
	// The rows go to the driver itself: what database/sql does with each argument costs a
	// tenth of the whole.
	prepare := func(query string) (st driver.StmtExecContext) {
		if err == nil {
			err = d.conn.Raw(func(c any) error {
				prepared, err := c.(driver.ConnPrepareContext).PrepareContext(ctx, query)
				if err == nil {
					st = prepared.(driver.StmtExecContext)
				}
				return err
			})
		}
		return st
	}
	d.insert, d.one = prepare(into+strings.Repeat(",(NULL,"+columns, insertRows-1)), prepare(into)
	if err != nil {
		return err
	}
	if d.addKeys, err = d.conn.PrepareContext(ctx, "INSERT INTO keys VALUES (?,?,?)"); err != nil {
		return err
	}
	if d.addFrom, err = d.conn.PrepareContext(ctx, "INSERT INTO sources VALUES (?,?)"); err != nil {
		return err
	}
	d.addKind, err = d.conn.PrepareContext(ctx, "INSERT INTO kinds VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")
	return err
}

func readCursor(ctx context.Context, conn *sql.Conn) (c eventlog.Cursor, err error) {
	err = conn.QueryRowContext(ctx, "SELECT segment, offset, seq FROM cursor").Scan(&c.Segment, &c.Offset, &c.Seq)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return c, err
}

func putCursor(ctx context.Context, conn *sql.Conn, c eventlog.Cursor) error {
	_, err := conn.ExecContext(ctx, "INSERT INTO cursor VALUES (1, ?, ?, ?) ON CONFLICT DO UPDATE SET segment = excluded.segment, offset = excluded.offset, seq = excluded.seq",
		int64(c.Segment), c.Offset, int64(c.Seq))
	return err
}

func (d *day) loadKinds(ctx context.Context) error {
	rows, err := d.conn.QueryContext(ctx, "SELECT k.*, coalesce(s.source, '') FROM kinds k LEFT JOIN sources s ON s.kind = k.id ORDER BY id DESC LIMIT ?", maxKinds/2)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k kind
		var id int64
		if err := rows.Scan(&id, &k.event, &k.class, &k.hard, &k.code, &k.dsn, &k.rule, &k.stream, &k.domain, &k.queue, &k.site, &k.relay, &k.report, &k.before, &k.after, &k.source); err != nil {
			return err
		}
		d.kinds[k] = id
	}
	return rows.Err()
}

// loadPending makes the keys of attempts that have none yet.
func (d *day) loadPending(ctx context.Context) error {
	rows, err := d.conn.QueryContext(ctx, "SELECT id, message, qid, recipient FROM attempts WHERE id >= ? ORDER BY id", d.first)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, message int64
		var qid sql.NullString
		var recipient any
		if err := rows.Scan(&id, &message, &qid, &recipient); err != nil {
			return err
		}
		r := eventlog.Record{ID: spool.ID(message), QueueID: qid.String}
		switch v := recipient.(type) {
		case string:
			r.Recipient = v
		case int64:
			r.Hash = v
		}
		d.note(id, &r)
	}
	return rows.Err()
}

// note keeps the keys of an attempt until the run is written.
func (d *day) note(id int64, r *eventlog.Record) {
	if h, ok := recipientKey(r.Recipient, r.Hash); ok {
		d.pending = append(d.pending, keyOf(h, id))
	}
	if r.QueueID != "" && (r.ID != d.lastID || id == d.first) { // one of a message is enough to find it
		d.pending = append(d.pending, keyOf(hashOf(r.QueueID), id))
	}
	m := int64(r.ID)
	if id == d.first {
		d.low, d.high = m, m
	}
	d.low, d.high, d.lastID = min(d.low, m), max(d.high, m), r.ID
}

// add writes attempts, and a cursor, in one transaction.
func (d *day) add(ctx context.Context, records []eventlog.Record, to eventlog.Cursor) (err error) {
	d.fresh = 0
	next, pending, lastID, kindID := d.next, len(d.pending), d.lastID, d.kindID
	err = transaction(ctx, d.conn, func(ctx context.Context) error {
		for len(records) > 0 {
			n, st := 1, d.one
			if len(records) >= insertRows {
				n, st = insertRows, d.insert
			}
			d.args = append(d.args[:0], driver.NamedValue{Ordinal: 1, Value: d.next})
			for i := range records[:n] {
				if err := d.row(ctx, &records[i]); err != nil {
					return err
				}
			}
			err := d.conn.Raw(func(any) error {
				_, err := st.ExecContext(ctx, d.args)
				return err
			})
			if err != nil {
				return err
			}
			records = records[n:]
		}
		return putCursor(ctx, d.conn, to)
	})
	if err != nil { // as if nothing had been; the next try adds them again
		d.next, d.pending, d.lastID = next, d.pending[:pending], lastID
		if d.kindID != kindID { // those of the transaction are not there
			clear(d.kinds)
			d.kindID = kindID
		}
		return err
	}
	d.cursor = to
	if d.next-d.first >= runRows {
		return d.writeRun(ctx)
	}
	return nil
}

// transaction runs f in a transaction, which the end of ctx does not interrupt.
func transaction(ctx context.Context, conn *sql.Conn, f func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx)
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := f(ctx)
	if err == nil {
		_, err = conn.ExecContext(ctx, "COMMIT")
	}
	if err != nil {
		// After some errors SQLite has ended it already, and says so.
		_, _ = conn.ExecContext(ctx, "ROLLBACK")
	}
	return err
}

// row appends the arguments of one attempt.
func (d *day) row(ctx context.Context, r *eventlog.Record) error {
	k := kind{
		event: r.Event, class: r.Class, dsn: r.Enhanced, rule: r.Rule, stream: r.Stream, domain: r.Domain, queue: r.Queue, site: r.Site, relay: r.Relay, source: r.Source,
		code: r.Code, hard: r.Hard, report: r.Report,
	}
	if r.Event == eventlog.Gap {
		r.Reply = fmt.Sprintf("%d events are lost, until %s", r.Lost, r.Due.UTC().Format(time.RFC3339))
	}
	var words string
	k.before, words, k.after = split(r.Reply, r.Recipient)
	kindID, ok := d.kinds[k]
	if !ok && d.fresh >= maxFresh { // of replies that have nothing in common
		k.before, words, k.after = "", r.Reply, ""
		kindID, ok = d.kinds[k]
	}
	if !ok {
		d.fresh++
		k.clone()
		if len(d.kinds) >= maxKinds {
			clear(d.kinds)
		}
		d.kindID++
		kindID = d.kindID
		if _, err := d.addKind.ExecContext(ctx, kindID, k.event, k.class, k.hard, k.code, k.dsn, k.rule, k.stream, k.domain, k.queue, k.site, k.relay, k.report, k.before, k.after); err != nil {
			return err
		}
		if k.source != "" {
			if _, err := d.addFrom.ExecContext(ctx, kindID, k.source); err != nil {
				return err
			}
		}
		d.kinds[k] = kindID
	}
	var qid, recipient, spare, due any
	if r.QueueID != "" {
		qid = r.QueueID
	}
	switch {
	case r.Recipient != "":
		recipient = r.Recipient
	case r.Hash != 0:
		recipient = r.Hash
	}
	if words != "" {
		spare = words
	}
	if !r.Due.IsZero() {
		due = r.Due.UnixMilli()
	}
	for _, v := range [...]driver.Value{r.Time.UnixMilli(), int64(r.ID), int64(r.Ordinal), qid, recipient, kindID, spare, int64(r.Tries), due} {
		d.args = append(d.args, driver.NamedValue{Ordinal: len(d.args) + 1, Value: v})
	}
	d.note(d.next, r)
	d.next++
	return nil
}

func (k *kind) clone() {
	for _, s := range []*string{&k.event, &k.class, &k.dsn, &k.rule, &k.stream, &k.domain, &k.queue, &k.site, &k.relay, &k.source, &k.before, &k.after} {
		*s = strings.Clone(*s)
	}
}

// writeRun writes the keys of attempts that have none yet, sorted, in lists behind those of
// earlier runs. So the table of keys only grows at its end: kept in one order throughout, as an
// index of SQLite is, each new key would change a page of its own.
func (d *day) writeRun(ctx context.Context) (err error) {
	if d.next == d.first {
		return nil
	}
	run := d.runs + 1
	err = transaction(ctx, d.conn, func(ctx context.Context) error {
		for first, list := range d.pending.lists() {
			if _, err := d.addKeys.ExecContext(ctx, run, int64(first), list); err != nil {
				return err
			}
		}
		_, err := d.conn.ExecContext(ctx, "INSERT INTO runs VALUES (?,?,?,?,?)", run, d.first, d.next-1, d.low, d.high)
		return err
	})
	if err != nil {
		return err
	}
	d.runs, d.first, d.pending = run, d.next, d.pending[:0]
	return nil
}

// checkpoint moves what it can from the WAL to the file, and returns the octets of the WAL
// that are left. They stay while somebody reads.
func (d *database) checkpoint(ctx context.Context) (int64, error) {
	if _, err := truncateWAL(ctx, d.conn); err != nil {
		return 0, err
	}
	return sizeOf(d.path + "-wal")
}

// truncateWAL moves all of the WAL to the file, if no reader is in the way.
func truncateWAL(ctx context.Context, conn *sql.Conn) (whole bool, err error) {
	var busy, frames, moved int
	err = conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	var e *sqlite.Error
	if errors.As(err, &e) && e.Code()&0xff == 5 { // SQLITE_BUSY
		return false, nil
	}
	return err == nil && busy == 0, err
}

func sizeOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d *database) close() error { return errors.Join(d.conn.Close(), d.db.Close()) }

// close closes the file, and ends its WAL. A statement that is left open would keep both.
func (d *day) close() (err error) {
	for _, st := range []driver.StmtExecContext{d.insert, d.one} {
		if st, ok := st.(driver.Stmt); ok {
			err = errors.Join(err, d.conn.Raw(func(any) error { return st.Close() }))
		}
	}
	for _, st := range []*sql.Stmt{d.addKind, d.addFrom, d.addKeys} {
		if st != nil {
			err = errors.Join(err, st.Close())
		}
	}
	return errors.Join(err, d.database.close())
}
