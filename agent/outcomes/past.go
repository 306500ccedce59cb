package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/history"
)

// Past are the counts of all mail, as far back as they are kept, oldest first.
func (o *Outcomes) Past(ctx context.Context) (list []history.Count, err error) {
	path := o.totalsPath()
	if o.policy.Load().KeepTotals == 0 {
		return nil, nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	err = o.read(ctx, path, func(conn *sql.Conn) error {
		rows, err := conn.QueryContext(ctx, `SELECT width, start, sum(iif(event IN (?, ?), n, 0)), sum(iif(event = ?, n, 0)), sum(iif(event = ?, n, 0))
			FROM totals GROUP BY width, start ORDER BY start`,
			event.Sent.Event(), event.HandedBack.Event(), event.Deferred.Event(), event.Bounced.Event())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var width, start int64
			var c history.Count
			if err := rows.Scan(&width, &start, &c.Sent, &c.Deferrals, &c.Bounces); err != nil {
				return err
			}
			c.Start, c.Width = time.Unix(start, 0), time.Duration(width)*time.Second
			list = append(list, c)
		}
		return rows.Err()
	})
	return list, err
}
