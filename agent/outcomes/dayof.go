package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"time"
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
}

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
	return d, err
}
