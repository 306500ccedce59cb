package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/millrace/millrace/agent/eventlog"
)

// Forgotten is what Forget erased.
type Forgotten struct {
	Rows   int // attempts, in all files
	Events int // in the log of events
	Files  int // damaged ones that were set aside: nobody knows what is in them
}

// Forget erases the attempts and the events of an address. The order matters: first it is
// erased in the log, then what the log had before is taken in, then the rows are
// deleted; so nothing that was read from the log comes after. Rows are overwritten, and no copy
// stays in a WAL. Mail that is still queued for the address makes new ones.
func (o *Outcomes) Forget(ctx context.Context, address string) (f Forgotten, err error) {
	find := finder{question: Question{Recipient: address}}
	keyed, err := o.hash(false)
	if err != nil {
		return f, err
	}
	if keyed != nil {
		find.hash = keyed(address)
	}
	local, _, _ := strings.Cut(address, "@")
	if l := o.events.Load(); l != nil {
		f.Events, err = l.Erase(ctx, func(r *eventlog.Record) bool {
			return find.is(r.Recipient, r.Hash) || len(local) >= 3 && containsFold(r.Reply, address)
		})
		if err != nil {
			return f, err
		}
		o.fill(ctx, true)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.day != nil { // it is opened anew, and its pending keys are read anew
		o.told(o.day.close())
		o.day = nil
	}
	for _, path := range o.files() {
		n, failed := forgetIn(ctx, path, find)
		f.Rows += n
		if failed != nil && unusable(failed) {
			failed = o.mendFile(path, failed)
		}
		err = errors.Join(err, failed)
		for _, name := range beside(path) {
			if strings.HasPrefix(name, path+".damaged") {
				if err = errors.Join(err, os.Remove(name)); err == nil {
					f.Files++
				}
			}
		}
	}
	return f, err
}

func forgetIn(ctx context.Context, path string, find finder) (n int, err error) {
	db, err := sql.Open("sqlite", dsn(path, "mode=rw&_pragma=busy_timeout(10000)&_pragma=secure_delete(1)&_txlock=immediate"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ids, err := find.ids(ctx, conn)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	local, _, _ := strings.Cut(find.question.Recipient, "@")
	err = transaction(ctx, conn, func(ctx context.Context) error {
		for _, id := range ids {
			erased, err := forgetRow(ctx, conn, find, local, id)
			if err != nil {
				return err
			}
			if erased {
				n++
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	whole, err := truncateWAL(ctx, conn)
	if err == nil && !whole {
		err = fmt.Errorf("%s: another program is reading it: the rows are deleted, and stay on the disk until that ends", path)
	}
	return n, err
}

// forgetRow deletes an attempt, if it is of the recipient, and what finds it.
func forgetRow(ctx context.Context, conn *sql.Conn, find finder, local string, id int64) (bool, error) {
	var recipient any
	var qid sql.NullString
	var kindID, message, run int64
	var before, after string
	err := conn.QueryRowContext(ctx, `SELECT a.recipient, a.qid, a.message, a.kind, k.before, k.after, coalesce((SELECT id FROM runs WHERE ?1 BETWEEN first AND last), 0)
		FROM attempts a JOIN kinds k ON k.id = a.kind WHERE a.id = ?1`, id).Scan(&recipient, &qid, &message, &kindID, &before, &after, &run)
	if err != nil {
		return false, err
	}
	text, _ := recipient.(string)
	hash, _ := recipient.(int64)
	if !find.is(text, hash) {
		return false, nil
	}
	exec := func(query string, args ...any) {
		if err == nil {
			_, err = conn.ExecContext(ctx, query, args...)
		}
	}
	exec("DELETE FROM attempts WHERE id = ?", id)
	if key, ok := recipientKey(text, hash); ok {
		exec("DELETE FROM keys WHERE run = ? AND hash = ? AND attempt = ?", run, int64(key), id)
	}
	// The key of the message goes to its next attempt, if that stands beside this one.
	exec(`UPDATE OR IGNORE keys SET attempt = (SELECT min(id) FROM attempts WHERE id > ?3) WHERE run = ?1 AND hash = ?2 AND attempt = ?3
		AND EXISTS (SELECT 1 FROM attempts a JOIN runs r ON r.id = ?1 AND a.id <= r.last WHERE a.id = (SELECT min(id) FROM attempts WHERE id > ?3) AND a.message = ?4)`,
		run, int64(hashOf(qid.String)), id, message)
	exec("DELETE FROM keys WHERE run = ? AND hash = ? AND attempt = ?", run, int64(hashOf(qid.String)), id)
	if len(local) >= 3 && (containsFold(before, local) || containsFold(after, local)) {
		exec("DELETE FROM kinds WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM attempts WHERE kind = ?1)", kindID)
	}
	return err == nil, err
}
