package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/millrace/millrace/agent/maillog"
)

// Total is how many events of a day were alike.
type Total struct {
	Stream, Queue, Site, Event, Class string
	N                                 int
}

// DayTotals is what is counted of a day.
type DayTotals struct {
	// From is the begin of the first bucket, Until the end of the last one; zero if nothing is
	// counted. Of days that are long ago buckets are an hour or a day wide.
	From, Until time.Time
	Totals      []Total
	Examples    []Example
}

// Example is what was answered to one of the deferrals, or of the bounces, of a class: of those
// who got the answer that came most often, but for words such as host names and addresses (split).
// Addresses in it have no local part.
type Example struct{ Event, Class, Reply string }

// Uncounted is the class under which totals have reports that came back and count for nothing, as
// anybody could have written them, say (eventlog.Record.Uncounted).
const Uncounted = "uncounted"

// errNoTotals says that counts are not kept.
var errNoTotals = errors.New(`counts are not kept; remedy: set keep_totals = "400d" under [outcomes]`)

// Day is what is counted of the day that begins at a time, in UTC.
func (o *Outcomes) Day(ctx context.Context, day time.Time) (d DayTotals, err error) {
	if o.policy.Load().KeepTotals == 0 {
		return d, errNoTotals
	}
	from := day.Unix()
	err = o.read(ctx, o.totalsPath(), func(conn *sql.Conn) error {
		var first, last sql.NullInt64
		err := conn.QueryRowContext(ctx, "SELECT min(start), max(start + width) FROM totals WHERE start >= ? AND start < ?", from, from+wide).Scan(&first, &last)
		if err != nil || !first.Valid {
			return err
		}
		d.From, d.Until = time.Unix(first.Int64, 0).UTC(), time.Unix(last.Int64, 0).UTC()
		rows, err := conn.QueryContext(ctx, `SELECT stream, queue, site, event, class, sum(n) FROM totals WHERE start >= ? AND start < ?
			GROUP BY stream, queue, site, event, class ORDER BY stream, queue, site, event, class`, from, from+wide)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var t Total
			if err := rows.Scan(&t.Stream, &t.Queue, &t.Site, &t.Event, &t.Class, &t.N); err != nil {
				return err
			}
			d.Totals = append(d.Totals, t)
		}
		return rows.Err()
	})
	if err != nil || len(d.Totals) == 0 {
		return d, err
	}
	d.Examples, err = o.examples(ctx, day)
	o.told(err) // counts without examples are better than none; Trouble tells of a damaged file
	return d, nil
}

// examples finds one for each class, in the attempts; none where these are not kept.
func (o *Outcomes) examples(ctx context.Context, day time.Time) (list []Example, err error) {
	err = o.read(ctx, o.dayPath(day), func(conn *sql.Conn) error {
		// With max() the other columns are of the row that has it
		// (https://sqlite.org/lang_select.html, section 2.5).
		rows, err := conn.QueryContext(ctx, `SELECT event, class, before || coalesce(a.words, '') || after, a.recipient, max(n) FROM (
				SELECT k.event, k.class, k.before, k.after, min(c.first) AS first, sum(c.n) AS n
				FROM (SELECT kind, min(id) AS first, count(*) AS n FROM attempts GROUP BY kind) c JOIN kinds k ON k.id = c.kind
				WHERE k.event IN ('deferred', 'bounced') GROUP BY k.event, k.class, k.before, k.after
			) JOIN attempts a ON a.id = first GROUP BY event, class ORDER BY event, class`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x Example
			var recipient any
			var n int
			if err := rows.Scan(&x.Event, &x.Class, &x.Reply, &recipient, &n); err != nil {
				return err
			}
			if address, ok := recipient.(string); ok { // else it is not in the reply
				x.Reply = maillog.HiddenIn(x.Reply, address)
			}
			x.Reply = maillog.WithoutLocalParts(x.Reply)
			list = append(list, x)
		}
		return rows.Err()
	})
	return list, err
}
