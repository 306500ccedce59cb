package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/maillog"
)

// totalsSchema is that of totals.db. A bucket is width seconds long.
const totalsSchema = `
CREATE TABLE cursor (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER NOT NULL, offset INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE totals (width INTEGER NOT NULL, start INTEGER NOT NULL, stream TEXT NOT NULL, queue TEXT NOT NULL, site TEXT NOT NULL, event TEXT NOT NULL,
	class TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (width, start, stream, queue, site, event, class)) WITHOUT ROWID;
`

// The widths of buckets, in seconds, and how long they are kept before they are added up
// to the next one.
const (
	fine      = 300
	hour      = 3600
	wide      = 86400
	fineFor   = 48 * time.Hour
	hourFor   = 35 * 24 * time.Hour
	maxBucket = 500 // combinations of names in a bucket; the others are counted under otherName
	otherName = "other"
)

// bucket is a row of totals, without its count.
type bucket struct {
	start                             int64
	stream, queue, site, event, class string
}

// totals is totals.db.
type totals struct {
	*database
	insert *sql.Stmt
	cursor eventlog.Cursor
	start  int64 // of the bucket that seen is about
	seen   map[bucket]bool
}

func (o *Outcomes) totalsPath() string { return filepath.Join(o.dir(), "totals.db") }

func openTotals(ctx context.Context, path string) (_ *totals, err error) {
	t := &totals{seen: make(map[bucket]bool)}
	if t.database, err = openDB(ctx, path, totalsSchema); err != nil {
		return nil, err
	}
	t.cursor, err = readCursor(ctx, t.conn)
	if err == nil {
		t.insert, err = t.conn.PrepareContext(ctx, "INSERT INTO totals VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET n = n + excluded.n")
	}
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// add counts events, and moves the cursor, in one transaction. Who reads may be anybody:
// names of streams lose what looks like a local part.
func (t *totals) add(ctx context.Context, records []eventlog.Record, to eventlog.Cursor) (err error) {
	counts := make(map[bucket]int64)
	for i := range records {
		r := &records[i]
		b := bucket{r.Time.Unix() / fine * fine, maillog.WithoutLocalParts(r.Stream), r.Queue, r.Site, r.Event, r.Class}
		if r.Uncounted != "" {
			b.class = Uncounted
		}
		n := int64(1)
		if r.Event == eventlog.Gap {
			n = int64(r.Lost)
		}
		if t.start != b.start {
			clear(t.seen)
			t.start = b.start
		}
		if !t.seen[b] {
			if len(t.seen) >= maxBucket {
				b.stream, b.site = otherName, otherName
			} else {
				t.seen[b] = true
			}
		}
		counts[b] += n
	}
	err = transaction(ctx, t.conn, func(ctx context.Context) error {
		for b, n := range counts {
			_, err := t.insert.ExecContext(ctx, fine, b.start, b.stream, b.queue, b.site, b.event, b.class, n)
			if err != nil {
				return err
			}
		}
		return putCursor(ctx, t.conn, to)
	})
	if err != nil {
		return err
	}
	t.cursor = to
	return nil
}

// fold adds up buckets that are old to wider ones, and drops those older than keep: of each
// width a day's at most, and it is called once an hour, so that a clock that is ahead for
// some minutes does not cost them all.
func (t *totals) fold(ctx context.Context, now time.Time, keep time.Duration) error {
	return transaction(ctx, t.conn, func(ctx context.Context) (err error) {
		// until is the end of what is taken of a width, a multiple of step seconds.
		until := func(width, step int64, age time.Duration) (end int64) {
			var oldest sql.NullInt64
			if err == nil {
				err = t.conn.QueryRowContext(ctx, "SELECT min(start) FROM totals WHERE width = ?", width).Scan(&oldest)
			}
			return min(now.Add(-age).Unix(), oldest.Int64+wide) / step * step
		}
		exec := func(query string, args ...any) {
			if err == nil {
				_, err = t.conn.ExecContext(ctx, query, args...)
			}
		}
		for _, step := range []struct {
			from, to int64
			after    time.Duration
		}{{fine, hour, fineFor}, {hour, wide, hourFor}} {
			end := until(step.from, step.to, step.after)
			exec(`INSERT INTO totals SELECT ?1, start / ?1 * ?1, stream, queue, site, event, class, sum(n) FROM totals
			WHERE width = ?2 AND start < ?3 GROUP BY 2, stream, queue, site, event, class ON CONFLICT DO UPDATE SET n = n + excluded.n`, step.to, step.from, end)
			exec("DELETE FROM totals WHERE width = ? AND start < ?", step.from, end)
		}
		for _, width := range []int64{fine, hour, wide} {
			exec("DELETE FROM totals WHERE width = ? AND start < ?", width, until(width, width, keep))
		}
		return err
	})
}

func (t *totals) close() (err error) {
	if t.insert != nil {
		err = t.insert.Close()
	}
	return errors.Join(err, t.database.close())
}
