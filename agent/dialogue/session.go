package dialogue

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

// Session is the dialogue of one connection. It is used by one goroutine at a time.
type Session struct {
	board  *Board
	site   string
	number uint64
	began  time.Time

	relay   string // the host, once it is known
	sent    int    // transactions
	since   uint64 // the audience that what follows was kept for
	opening piece  // what was said before the first transaction
	piece   piece  // what was said since then: of a transaction, or after one
	to      []smtp.Rcpt
	tx      bool // a transaction is under way
	refused bool // in the piece: a reply of 4xx or 5xx, or the connection broke
	views   map[*Watcher]*view
}

// view is what one watcher has of a session.
type view struct {
	told bool // which session it is
	live bool // lines are shown as they come
	over bool
}

// Session begins a dialogue with a site.
func (b *Board) Session(site string) *Session {
	return &Session{board: b, site: site, number: b.sessions.Add(1), began: time.Now()}
}

// Traced says whether Trace is wanted, for smtp.Options.
func (s *Session) Traced() bool { return s.board.Watched() }

// With names the host.
func (s *Session) With(relay string) { s.relay = relay }

// Trace takes a line, for smtp.Options.
func (s *Session) Trace(e smtp.TraceEvent) {
	from, refused := control.WatchNote, false
	switch e.From {
	case smtp.Client:
		from = control.WatchClient
	case smtp.Server:
		from = control.WatchServer
		refused = e.Line != "" && (e.Line[0] == '4' || e.Line[0] == '5')
	}
	s.add(control.WatchLine{Time: e.Time, Session: s.number, From: from, Text: e.Line})
	s.refused = s.refused || refused // after what was kept for others is forgotten
}

// note tells what happened to the session.
func (s *Session) note(text string) {
	s.add(control.WatchLine{Time: time.Now(), Session: s.number, From: control.WatchNote, Text: printable.String(text)})
}

// audience are those who watch now. What was kept for others is forgotten.
func (s *Session) audience() []*Watcher {
	a := s.board.now.Load()
	if a == nil {
		if s.since != 0 {
			s.forget()
			s.since = 0
		}
		return nil
	}
	if s.since != a.since {
		s.forget()
		s.since = a.since
	}
	return a.list
}

func (s *Session) forget() {
	s.opening, s.piece, s.refused, s.views = piece{}, piece{}, false, nil
}

// add shows a line to those who see it at once, and keeps it for the others.
func (s *Session) add(l control.WatchLine) {
	kept := false
	for _, w := range s.audience() {
		q := &w.question
		if !s.of(w) {
			continue
		}
		if q.Failed || q.Recipient != "" {
			kept = true
		} else if v := s.view(w); v != nil && !v.live {
			s.introduce(w, v)
			v.live = true
		}
		if v := s.views[w]; v != nil && v.live {
			w.push(l)
		}
	}
	if kept {
		s.piece.add(l)
	}
}

// of reports whether a watcher has asked for this site.
func (s *Session) of(w *Watcher) bool {
	q := &w.question
	if len(q.Sites) > 0 {
		return slices.Contains(q.Sites, s.site)
	}
	return q.Site == "" || q.Site == s.site
}

// view is what a watcher has of the session, nil if it shall have nothing.
func (s *Session) view(w *Watcher) *view {
	v := s.views[w]
	if v == nil {
		for old := range s.views {
			if old.ended() {
				delete(s.views, old)
			}
		}
		v = &view{over: !w.begin()}
		if s.views == nil {
			s.views = make(map[*Watcher]*view)
		}
		s.views[w] = v
	}
	if v.over {
		return nil
	}
	return v
}

// introduce tells which session it is.
func (s *Session) introduce(w *Watcher, v *view) {
	if v.told {
		return
	}
	v.told = true
	text := "session of site " + s.site
	if s.relay != "" {
		text += " with " + s.relay
	}
	if !s.opening.empty() || s.sent == 0 {
		s.pushNote(w, text)
		return
	}
	s.pushNote(w, printable.Sprintf("%s, up since %s; its opening was not watched; transactions before: %d",
		text, s.began.Format(time.TimeOnly), s.sent))
}

func (s *Session) pushNote(w *Watcher, text string) {
	w.push(control.WatchLine{Time: time.Now(), Session: s.number, From: control.WatchNote, Text: printable.String(text)})
}

// Begin tells of a transaction: the message, its envelope, and those of its recipients that are
// in it, which stay as they are until End.
func (s *Session) Begin(id spool.ID, e *spool.Envelope, to []smtp.Rcpt) {
	list := s.audience()
	if list == nil {
		return
	}
	s.cut(list)
	s.tx, s.to = true, to
	for _, w := range list {
		if w.question.Recipient == "" || w.question.Failed || !s.concerns(w) {
			continue
		}
		if v := s.view(w); v != nil {
			s.showOpening(w, v)
			v.live = true
		}
	}
	text := "message " + id.String()
	if e.QueueID != "" {
		text += ", " + e.QueueID + " of the host"
	}
	if e.Stream != "" {
		text += ", stream " + e.Stream
	}
	s.note(text)
}

// End tells that the transaction is over, and by which error if the connection broke in it.
func (s *Session) End(err error) {
	s.sent++
	if list := s.audience(); list != nil {
		if err != nil {
			s.note("broken off: " + err.Error())
			s.refused = true
		}
		s.cut(list)
	}
	s.tx, s.to = false, nil
}

// Close tells that the connection is over, and by which error if it broke.
func (s *Session) Close(err error) {
	list := s.audience()
	if list == nil {
		return
	}
	text := "closed"
	if err != nil {
		text, s.refused = "closed: "+err.Error(), true
	}
	s.note(text)
	s.cut(list)
	for w, v := range s.views {
		if !v.over && v.told {
			v.over = true
			w.end()
		}
	}
}

// cut ends a piece of the dialogue: those who wait for its end are shown it, if it is what
// they asked for.
func (s *Session) cut(list []*Watcher) {
	for _, w := range list {
		q := &w.question
		switch {
		case !s.of(w):
		case q.Failed:
			if !s.refused || q.Recipient != "" && !s.concerns(w) {
				continue
			}
			if v := s.view(w); v != nil {
				s.showOpening(w, v)
				s.piece.show(s, w)
				s.limited(w, v)
			}
		case q.Recipient != "":
			if v := s.views[w]; v != nil && v.live {
				v.live = false
				s.limited(w, v)
			}
		}
	}
	if s.sent == 0 && !s.tx && s.opening.empty() {
		s.opening, s.piece = s.piece, piece{}
	}
	s.piece.clear()
	s.refused = false
}

// limited ends a view after one transaction, where only so many dialogues are wanted.
func (s *Session) limited(w *Watcher, v *view) {
	if w.question.First > 0 && !v.over {
		v.over = true
		w.end()
	}
}

// showOpening shows how the connection came up, once.
func (s *Session) showOpening(w *Watcher, v *view) {
	if !v.told {
		s.introduce(w, v)
		s.opening.show(s, w)
	}
}

// concerns reports whether the transaction is for the recipient that a watcher asked for.
func (s *Session) concerns(w *Watcher) bool {
	return s.of(w) && slices.ContainsFunc(s.to, func(r smtp.Rcpt) bool { return strings.EqualFold(r.Address, w.question.Recipient) })
}

// What is kept of a piece of a session's dialogue, in octets: 2,000 sessions keep 50 MB at
// most while somebody watches, for hostile receivers, and a tenth of that for others. Of a
// longer piece the middle is left out: its end has the reply that counts.
const (
	maxHead = 12 << 10
	maxTail = 4 << 10
)

// piece is a part of a dialogue.
type piece struct {
	head, tail []control.WatchLine
	inHead     int // octets
	inTail     int
	left       int // lines between the two
	headIsFull bool
}

func (p *piece) empty() bool { return len(p.head) == 0 }

func (p *piece) clear() {
	clear(p.head)
	*p = piece{head: p.head[:0]}
}

func (p *piece) add(l control.WatchLine) {
	cost := len(l.Text) + lineCost
	if !p.headIsFull && p.inHead+cost <= maxHead {
		p.head, p.inHead = append(p.head, l), p.inHead+cost
		return
	}
	p.headIsFull = true
	p.tail, p.inTail = append(p.tail, l), p.inTail+cost
	for p.inTail > maxTail && len(p.tail) > 1 {
		p.inTail -= len(p.tail[0].Text) + lineCost
		p.tail = slices.Delete(p.tail, 0, 1)
		p.left++
	}
}

// show gives the lines to a watcher.
func (p *piece) show(s *Session, w *Watcher) {
	for _, l := range p.head {
		w.push(l)
	}
	if p.left > 0 {
		w.push(control.WatchLine{Time: p.tail[0].Time, Session: s.number, From: control.WatchNote, Lost: p.left,
			Text: printable.Sprintf("%d lines are left out here: the transaction is too long to be kept", p.left)})
	}
	for _, l := range p.tail {
		w.push(l)
	}
}
