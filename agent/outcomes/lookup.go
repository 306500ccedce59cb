package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/spool"
)

// Question is what History is asked: for a recipient, a queue id of the host, a message
// or a stream, exactly one of them.
type Question struct {
	Recipient string
	QueueID   string
	Message   spool.ID
	Stream    *string
	Since     time.Time // zero: all that there is
}

// Entry is one attempt, or another event.
type Entry struct {
	eventlog.Record
}

// pageRows is how many rows are read before the file is let go, so that no WAL waits for
// whoever reads slowly.
const pageRows = 1000

// maxFound bounds the attempts of one recipient or message that a question is told of, in
// the file of a day.
const maxFound = 100_000

// History calls yield for what is known, by the files of days, and in them as it happened,
// until it returns an error. It reads what is in the databases, some seconds behind what
// happens. Damaged files are left out, and told by the error.
func (o *Outcomes) History(ctx context.Context, q Question, yield func(*Entry) error) error {
	if p := o.policy.Load(); p.Keep == 0 {
		return errors.New(`outcomes are not kept; remedy: set keep = "7d" under [outcomes]`)
	}
	var wrong error
	find := finder{question: q, most: o.found}
	if q.Recipient != "" {
		keyed, err := o.hash(false)
		if keyed != nil {
			find.hash = keyed(q.Recipient)
		}
		wrong = err // rows with plain addresses are found all the same
	}
	list := o.files()
	if q.Message != 0 {
		for _, path := range list {
			err := o.read(ctx, path, func(conn *sql.Conn) error { return find.queueID(ctx, conn) })
			if err != nil {
				wrong = errors.Join(wrong, err)
			}
			if find.question.QueueID != "" {
				break
			}
		}
	}
	for _, path := range list {
		if day, _ := dayOf(path); day.Add(24 * time.Hour).Before(q.Since) {
			continue
		}
		find.after = 0
		for more := true; more; {
			find.page, more = find.page[:0], false // a file that is gone, or empty, has none
			err := o.read(ctx, path, func(conn *sql.Conn) (err error) { more, err = find.next(ctx, conn); return err })
			if err != nil {
				wrong = errors.Join(wrong, err)
				break
			}
			for i := range find.page {
				if err := yield(&find.page[i]); err != nil {
					return err
				}
			}
		}
	}
	return wrong
}

// read opens a file for a reader, in one transaction: no run is written between its
// queries.
func (o *Outcomes) read(ctx context.Context, path string, f func(*sql.Conn) error) (err error) {
	db, err := sql.Open("sqlite", dsn(path, "mode=rw&_pragma=busy_timeout(2000)&_pragma=query_only(1)&_pragma=automatic_index(0)&_pragma=cache_size(-8000)"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err == nil {
		defer conn.Close()
		if _, err = conn.ExecContext(ctx, "BEGIN"); err == nil {
			var there bool
			if there, err = begun(ctx, conn); there {
				err = f(conn)
			}
			err = errors.Join(err, end(conn))
		}
	}
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, os.ErrNotExist):
		return nil
	case unusable(err):
		select {
		case o.broken <- fileError{path, err}:
		default:
		}
		return fmt.Errorf("%s is damaged, and is set aside: %w", path, err)
	}
	if _, gone := os.Stat(path); errors.Is(gone, os.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	return fmt.Errorf("%s: %w", path, err)
}

// begun reports whether a file has its schema. The writer makes that in one transaction, after
// the file: in between, and after a crash there, the file is empty, and not damaged.
func begun(ctx context.Context, conn *sql.Conn) (bool, error) {
	tables := 0
	err := conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables)
	return tables > 0, err
}

// hasSources reports whether a file has the table of sources.
func hasSources(ctx context.Context, conn *sql.Conn) (bool, error) {
	tables := 0
	err := conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE name = 'sources'").Scan(&tables)
	return tables > 0, err
}

func end(conn *sql.Conn) error {
	_, err := conn.ExecContext(context.Background(), "ROLLBACK")
	return err
}

// finder answers a question in one file after the other.
type finder struct {
	question Question
	hash     int64 // of the recipient; 0: none
	most     int   // attempts without keys that are looked for in a file
	after    int64 // the last attempt that was seen
	page     []Entry
}

const attemptColumns = `SELECT a.id, a.time, a.message, a.ordinal, a.qid, a.recipient, a.words, a.tries, a.due,
	k.event, k.class, k.hard, k.code, k.dsn, k.rule, k.stream, k.domain, k.queue, k.site, k.relay, k.report, k.before, k.after, `

// The rest of the query, for files that have sources, and for those of before.
const (
	withSources    = "coalesce(s.source, '') FROM attempts a JOIN kinds k ON k.id = a.kind LEFT JOIN sources s ON s.kind = a.kind "
	withoutSources = "'' FROM attempts a JOIN kinds k ON k.id = a.kind "
)

// next reads a page, and reports whether there may be another one.
func (f *finder) next(ctx context.Context, conn *sql.Conn) (more bool, err error) {
	if q := &f.question; q.Stream != nil {
		return f.scan(ctx, conn, pageRows, "WHERE a.id > ? AND a.time >= ? AND a.kind IN (SELECT id FROM kinds WHERE stream = ?) ORDER BY a.id LIMIT ?",
			f.after, since(q.Since), *q.Stream, pageRows)
	}
	ids, err := f.ids(ctx, conn)
	if err != nil {
		return false, err
	}
	for part := range slices.Chunk(ids, 500) {
		marks := strings.TrimSuffix(strings.Repeat("?,", len(part)), ",")
		args := make([]any, len(part))
		for i, id := range part {
			args[i] = id
		}
		if _, err := f.scan(ctx, conn, len(part), "WHERE a.id IN ("+marks+") ORDER BY a.id", args...); err != nil {
			return false, err
		}
	}
	return false, nil
}

func since(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// ids finds attempts that may answer the question, by their keys and, where they have none
// yet, by themselves.
func (f *finder) ids(ctx context.Context, conn *sql.Conn) (list []int64, err error) {
	q := &f.question
	collect := func(query string, args ...any) {
		if err != nil {
			return
		}
		var rows *sql.Rows
		if rows, err = conn.QueryContext(ctx, query, args...); err != nil {
			return
		}
		defer rows.Close()
		for rows.Next() && len(list) < f.most {
			var id int64
			if err = rows.Scan(&id); err != nil {
				return
			}
			list = append(list, id)
		}
		err = rows.Err()
	}
	byHash := func(hash uint32) {
		if err == nil {
			var found []int64
			found, err = byKey(ctx, conn, hash)
			list = append(list, found...)
		}
	}
	const newest = "SELECT id FROM attempts WHERE id > (SELECT coalesce(max(last), 0) FROM runs) AND "
	switch {
	case q.Recipient != "":
		byHash(hashOf(q.Recipient))
		collect(newest+"recipient = ? COLLATE NOCASE", q.Recipient)
		if f.hash != 0 {
			byHash(uint32(f.hash))
			collect(newest+"recipient = ?", f.hash)
		}
	case q.QueueID != "":
		byHash(hashOf(q.QueueID))
		for _, first := range list {
			// A key is of the first of attempts of one message that stand together.
			collect(`SELECT b.id FROM attempts a JOIN attempts b ON b.id > a.id AND b.message = a.message
				AND b.id < coalesce((SELECT min(id) FROM attempts c WHERE c.id > a.id AND c.message <> a.message), 1 << 62)
				WHERE a.id = ? AND a.qid = ?`, first, q.QueueID)
		}
		collect(newest+"qid = ?", q.QueueID)
	default: // a report of our own, which has no queue id: all attempts are looked at
		collect("SELECT id FROM attempts WHERE message = ?", int64(q.Message))
	}
	slices.Sort(list)
	return slices.Compact(list), err
}

// byKey are the attempts with a key of that hash, and perhaps others.
func byKey(ctx context.Context, conn *sql.Conn, hash uint32) (attempts []int64, err error) {
	rows, err := conn.QueryContext(ctx, "SELECT (SELECT list FROM keys k WHERE k.run = r.id AND k.first <= ? ORDER BY k.first DESC LIMIT 1) FROM runs r", int64(hash))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&list); err != nil {
			return nil, err
		}
		attempts = append(attempts, found(list, hash)...)
	}
	return attempts, rows.Err()
}

// queueID finds the queue id of a message, by which its attempts are found: in the runs
// that may have it, as the ids of messages grow.
func (f *finder) queueID(ctx context.Context, conn *sql.Conn) error {
	var qid sql.NullString
	err := conn.QueryRowContext(ctx, `SELECT qid FROM runs r CROSS JOIN attempts a ON a.id BETWEEN r.first AND r.last
		WHERE ?1 BETWEEN r.low AND r.high AND a.message = ?1 UNION ALL
		SELECT qid FROM attempts WHERE id > (SELECT coalesce(max(last), 0) FROM runs) AND message = ?1 LIMIT 1`, int64(f.question.Message)).Scan(&qid)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	f.question.QueueID = qid.String
	return err
}

// scan adds rows to the page. A page that is full may have another one after it.
func (f *finder) scan(ctx context.Context, conn *sql.Conn, most int, where string, args ...any) (more bool, err error) {
	from := withoutSources
	if there, err := hasSources(ctx, conn); err != nil {
		return false, err
	} else if there {
		from = withSources
	}
	rows, err := conn.QueryContext(ctx, attemptColumns+from+where, args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var e Entry
		var id, at, message int64
		var qid, words sql.NullString
		var due sql.NullInt64
		var recipient any
		var before, after string
		if err := rows.Scan(&id, &at, &message, &e.Ordinal, &qid, &recipient, &words, &e.Tries, &due,
			&e.Event, &e.Class, &e.Hard, &e.Code, &e.Enhanced, &e.Rule, &e.Stream, &e.Domain, &e.Queue, &e.Site, &e.Relay, &e.Report, &before, &after, &e.Source); err != nil {
			return false, err
		}
		n++
		f.after = id
		e.Time, e.ID, e.QueueID, e.Reply = time.UnixMilli(at).UTC(), spool.ID(message), qid.String, before+words.String+after
		if due.Valid {
			e.Due = time.UnixMilli(due.Int64).UTC()
		}
		switch v := recipient.(type) {
		case string:
			e.Recipient = v
		case int64:
			e.Hash = v
		}
		if f.answers(&e) {
			f.page = append(f.page, e)
		}
	}
	return n == most, rows.Err()
}

// answers reports whether an attempt is what was asked for: keys are hashes, and others
// may have the same.
func (f *finder) answers(e *Entry) bool {
	q := &f.question
	switch {
	case e.Time.Before(q.Since):
		return false
	case q.Recipient != "":
		return f.is(e.Recipient, e.Hash)
	case q.Message != 0:
		return e.ID == q.Message
	case q.QueueID != "":
		return e.QueueID == q.QueueID
	}
	return true
}

// is reports whether that is the recipient that is looked for.
func (f *finder) is(address string, hash int64) bool {
	return address != "" && strings.EqualFold(address, f.question.Recipient) || hash != 0 && hash == f.hash
}

// cursorOf reads the cursor of a database.
func cursorOf(path string) (c eventlog.Cursor, err error) {
	db, err := sql.Open("sqlite", dsn(path, "mode=rw&_pragma=busy_timeout(2000)"))
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(context.Background())
	if err != nil {
		return c, err
	}
	defer conn.Close()
	if there, err := begun(context.Background(), conn); !there {
		return c, err
	}
	return readCursor(context.Background(), conn)
}

// finished reports whether all attempts of a file have keys.
func finished(ctx context.Context, path string) (done bool, err error) {
	db, err := sql.Open("sqlite", dsn(path, "mode=rw&_pragma=busy_timeout(2000)"))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if there, err := begun(ctx, conn); !there {
		return true, err
	}
	err = conn.QueryRowContext(ctx, "SELECT (SELECT coalesce(max(id), 0) FROM attempts) = (SELECT coalesce(max(last), 0) FROM runs)").Scan(&done)
	return done, err
}
