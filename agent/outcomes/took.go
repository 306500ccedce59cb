package outcomes

import (
	"context"
	"database/sql"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/agent/event"
)

// Who asks before mail leaves whether its recipient took mail before must not wait for
// a database. So the recipients of late are in memory: those that take mail from now on, and in
// the background once the newest of the databases. Whoever is not there is unknown,
// and so are all while that is being read, or where it cannot be read. It begins with the first
// question, and costs nothing before.

const (
	// tookMost bounds the recipients of each of two generations, of some 20 octets each.
	tookMost = 1 << 18
	// tookRows is how many rows are read for the first question.
	tookRows = 1 << 20
)

// took are recipients that took mail.
type took struct {
	asked atomic.Bool
	read  bool // from the databases; of Run alone
	plain maphash.Seed
	keyed atomic.Pointer[func(string) int64] // nil: the databases have addresses

	mu         sync.Mutex
	young, old map[uint64]struct{}
}

// key is how a recipient is called in a generation; neither has its address.
func (t *took) key(address string) uint64 {
	if keyed := t.keyed.Load(); keyed != nil {
		return uint64((*keyed)(address))
	}
	return maphash.String(t.plain, strings.ToLower(address))
}

// use has recipients called as a policy keeps them.
func (t *took) use(keyed func(string) int64) {
	t.keyed.Store(nil)
	if keyed != nil {
		t.keyed.Store(&keyed)
	}
}

// add notes a recipient; whether it is of late.
func (t *took) add(key uint64, late bool) (full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.young == nil {
		t.young, t.old = make(map[uint64]struct{}), make(map[uint64]struct{})
	}
	if !late {
		t.old[key] = struct{}{}
		return len(t.old) >= tookMost
	}
	if t.young[key] = struct{}{}; len(t.young) >= tookMost {
		t.old, t.young = t.young, make(map[uint64]struct{})
	}
	return false
}

func (t *took) forget(address string) {
	key := t.key(address)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.young, key)
	delete(t.old, key)
}

// Took says whether a recipient is known to have taken mail from this host. It never waits for
// a database.
func (o *Outcomes) Took(address string) bool {
	if p := o.policy.Load(); p.Keep == 0 || p.Recipients == None {
		return false
	}
	o.took.asked.Store(true)
	key := o.took.key(address)
	o.took.mu.Lock()
	defer o.took.mu.Unlock()
	_, young := o.took.young[key]
	_, old := o.took.old[key]
	return young || old
}

// noteTook notes who takes mail, once anybody asks.
func (o *Outcomes) noteTook(d *event.Delivery) {
	if d.Status == event.Sent && o.took.asked.Load() {
		o.took.add(o.took.key(d.Recipient()), true)
	}
}

// readTook reads who took mail from the databases, the newest first. A file that is damaged is
// left out.
func (o *Outcomes) readTook(ctx context.Context) {
	list := o.files()
	rows, full := 0, false
	for i := len(list) - 1; i >= 0; i-- {
		before, more := int64(1<<62), true
		for more && !full && rows < tookRows && ctx.Err() == nil {
			more = false // a file that is gone, or empty, has none
			err := o.read(ctx, list[i], func(conn *sql.Conn) error {
				found, err := conn.QueryContext(ctx, "SELECT a.id, a.recipient, k.event = 'sent' FROM attempts a JOIN kinds k ON k.id = a.kind WHERE a.id < ? ORDER BY a.id DESC LIMIT ?", before, pageRows)
				if err != nil {
					return err
				}
				defer found.Close()
				for n := 1; found.Next(); n++ {
					var recipient any
					var sent bool
					if err := found.Scan(&before, &recipient, &sent); err != nil {
						return err
					}
					rows++
					more = n == pageRows
					if !sent {
						continue
					}
					switch x := recipient.(type) {
					case string:
						full = o.took.add(o.took.key(x), false)
					case int64:
						full = o.took.add(uint64(x), false)
					}
				}
				return found.Err()
			})
			if err != nil && ctx.Err() == nil {
				o.told(err)
			}
		}
	}
}
