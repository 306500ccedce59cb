package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
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
	find := finder{question: Question{Recipient: address}, most: math.MaxInt}
	keyed, err := o.hash(false)
	if err != nil {
		return f, err
	}
	if keyed != nil {
		find.hash = keyed(address)
	}
	defer o.took.forget(address) // after what was read meanwhile
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
	o.known = false   // in case a file goes while none is open
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
	}
	for _, path := range o.asides() {
		failed := os.Remove(path)
		if failed == nil {
			f.Files++
		}
		err = errors.Join(err, failed)
	}
	return f, err
}

func forgetIn(ctx context.Context, path string, find finder) (n int, err error) {
	db, err := sql.Open("sqlite", dsn(path, "mode=rw&_pragma=busy_timeout(10000)&_pragma=secure_delete(1)"))
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
	if there, err := begun(ctx, conn); !there {
		return 0, err
	}
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
	if key, ok := recipientKey(text, hash); err == nil && ok {
		err = replaceKey(ctx, conn, run, key, id, 0)
	}
	if err == nil && qid.String != "" {
		// The key of the message goes to its next attempt, if that stands beside this one.
		var next int64
		err = conn.QueryRowContext(ctx, `SELECT coalesce(max(a.id), 0) FROM attempts a JOIN runs r ON r.id = ?1 AND a.id <= r.last
			WHERE a.id = (SELECT min(id) FROM attempts WHERE id > ?2) AND a.message = ?3`, run, id, message).Scan(&next)
		if err == nil {
			err = replaceKey(ctx, conn, run, hashOf(qid.String), id, next)
		}
	}
	if len(local) >= 3 && (containsFold(before, local) || containsFold(after, local)) {
		exec("DELETE FROM kinds WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM attempts WHERE kind = ?1)", kindID)
	}
	return err == nil, err
}

// replaceKey replaces the attempt of a key by another one; 0 removes the key.
func replaceKey(ctx context.Context, conn *sql.Conn, run int64, hash uint32, attempt, by int64) error {
	var first int64
	var list []byte
	err := conn.QueryRowContext(ctx, "SELECT first, list FROM keys WHERE run = ? AND first <= ? ORDER BY first DESC LIMIT 1", run, int64(hash)).Scan(&first, &list)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		_, err = conn.ExecContext(ctx, "UPDATE keys SET list = ? WHERE run = ? AND first = ?", replaced(list, hash, attempt, by), run, first)
	}
	return err
}
