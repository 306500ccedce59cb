package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// The views of a fleet: listings that each node makes of itself.
const (
	ViewQueue    = "queue"    // a Message on each line, of what a Filter selects
	ViewStreams  = "streams"  // a Stream on each line
	ViewLimits   = "limits"   // StreamLimits on each line
	ViewStanding = "standing" // StandingOrders, one
)

// Nodes is how the other nodes are asked.
type Nodes interface {
	// Node is the name of this one, Nodes are those of all members.
	Node() string
	Nodes() []string
	// Get asks another node for a path that its Views serve. The body, which ends with ctx,
	// must be closed; an answer that is not 200 is an error.
	Get(ctx context.Context, node, path string) (io.ReadCloser, error)
}

// ErrNoNodes says that there are no other nodes to ask.
var ErrNoNodes = errors.New("this host is of no fleet, or its nodes do not listen for each other; remedy: name and listen in [fleet], millrace-fleet(7)")

const (
	// viewPath begins the paths of Views.
	viewPath = "/v1/fleet/"
	// answerWithin is how long a node may take until it begins to answer, and then until it
	// goes on; one that looks for long sends empty lines every aliveEvery.
	answerWithin = 5 * time.Second
	aliveEvery   = time.Second
	// viewWithin bounds a whole view.
	viewWithin = 10 * time.Minute
	// maxItem bounds a line of another node, in octets: a message of some 50,000 recipients.
	maxItem = 16 << 20
)

// Unanswered is a node that did not answer, or not to the end.
type Unanswered struct{ Node, Why string }

// viewLine is a line of the answer to a view: an item of a node, a node that did not answer
// to its end, or the end of all.
type viewLine struct {
	Node  string          `json:"node,omitempty"`
	Item  json.RawMessage `json:"item,omitempty"`
	Error string          `json:"error,omitempty"`
	End   bool            `json:"end,omitempty"`
}

// view calls yield with each item of a view of this node.
func view(ctx context.Context, b Backend, name string, f Filter, yield func(any) error) error {
	switch name {
	case ViewQueue:
		return b.Messages(ctx, f, func(m *Message) error { return yield(m) })
	case ViewStreams:
		return eachOf(b.Streams(), yield)
	case ViewLimits:
		return eachOf(b.Status().Limits, yield)
	case ViewStanding:
		return yield(b.Standing())
	}
	return fmt.Errorf("view %s: %w", name, ErrUnknown)
}

func eachOf[T any](list []T, yield func(any) error) error {
	for i := range list {
		if err := yield(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// viewKnown reports whether there is a view of the name.
func viewKnown(name string) bool {
	return name == ViewQueue || name == ViewStreams || name == ViewLimits || name == ViewStanding
}

// viewAsked reads what a request for a view is about, or answers that there is none.
func viewAsked(w http.ResponseWriter, r *http.Request) (name string, f Filter, ok bool) {
	name = r.PathValue("view")
	if !viewKnown(name) {
		respond(w, nil, fmt.Errorf("view %s: %w", name, ErrUnknown))
		return name, f, false
	}
	f, err := readFilter(r.URL.Query())
	if err != nil {
		http.Error(w, "filter: "+err.Error(), http.StatusBadRequest)
	}
	return name, f, err == nil
}

// Views serves the views of this node to the others of its fleet: GET /v1/fleet/queue and so
// on. Nothing there changes anything. Whoever asks must have been let in.
func Views(b Backend, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+viewPath+"{view}", func(w http.ResponseWriter, r *http.Request) {
		name, f, ok := viewAsked(w, r)
		if !ok {
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		l := newViewLines(w)
		var alive sync.WaitGroup
		ctx, end := context.WithCancel(r.Context())
		alive.Go(func() { l.alive(ctx) })
		err := view(ctx, b, name, f, func(v any) error {
			item, err := json.Marshal(v)
			if err == nil {
				err = l.write(item)
			}
			return err
		})
		end()
		alive.Wait()
		if err == nil {
			err = l.flush()
		}
		if err != nil {
			log.Debug("a view for another node ended early", "view", name, "err", err)
			panic(http.ErrAbortHandler) // so that it is not taken for all
		}
	})
	return mux
}

// viewLines writes lines of several goroutines.
type viewLines struct {
	mu  sync.Mutex
	out *bufio.Writer
	to  *http.ResponseController
}

func newViewLines(w http.ResponseWriter) *viewLines {
	return &viewLines{out: bufio.NewWriterSize(deadlineWriter{w}, listingBuffer), to: http.NewResponseController(w)}
}

// write writes the parts of a line, and its end.
func (l *viewLines) write(parts ...[]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range parts {
		l.out.Write(p)
	}
	return l.out.WriteByte('\n') // with the error of all before
}

func (l *viewLines) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.out.Flush(); err != nil {
		return err
	}
	return l.to.Flush()
}

// alive sends an empty line now and then, with what waits.
func (l *viewLines) alive(ctx context.Context) {
	t := time.NewTicker(aliveEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if l.write() != nil || l.flush() != nil {
				return
			}
		}
	}
}

// ShowFleet serves views of all nodes to admins of this one. It is called before Serve.
func (s *Server) ShowFleet(n Nodes) { s.nodes = n }

// viewOfFleet asks all nodes, and passes on what they say as it comes.
func (s *Server) viewOfFleet(w http.ResponseWriter, r *http.Request) {
	if s.nodes == nil {
		respond(w, nil, ErrNoNodes)
		return
	}
	name, f, ok := viewAsked(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	ctx, done := context.WithTimeout(r.Context(), viewWithin)
	defer done()
	l := newViewLines(w)
	var all sync.WaitGroup
	for _, node := range s.nodes.Nodes() {
		all.Go(func() {
			head, _ := json.Marshal(node) // a text
			head = append(append([]byte(`{"node":`), head...), `,"item":`...)
			pass := func(item []byte) error { return l.write(head, item, []byte{'}'}) }
			err := s.ofNode(ctx, node, name, f, pass)
			if err != nil {
				line, _ := json.Marshal(viewLine{Node: node, Error: err.Error()})
				l.write(line)
			}
			l.flush()
		})
	}
	all.Wait()
	l.write([]byte(`{"end":true}`))
	if err := l.flush(); err != nil {
		s.log.Debug("a view of the fleet ended early", "view", name, "err", err)
	}
}

// ofNode passes on a node's items.
func (s *Server) ofNode(ctx context.Context, node, name string, f Filter, pass func(item []byte) error) error {
	if node == s.nodes.Node() {
		return view(ctx, s.backend, name, f, func(v any) error {
			item, err := json.Marshal(v)
			if err == nil {
				err = pass(item)
			}
			return err
		})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(s.patience, func() { cancel(fmt.Errorf("no answer for %s", s.patience)) })
	defer late.Stop()
	why := func(err error) error {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		return err
	}
	path := viewPath + name
	if v := f.values(); len(v) > 0 {
		path += "?" + v.Encode()
	}
	body, err := s.nodes.Get(ctx, node, path)
	if err != nil {
		return why(err)
	}
	defer body.Close()
	in := bufio.NewScanner(body)
	in.Buffer(make([]byte, listingBuffer), maxItem)
	for {
		// The time that our own reader takes is not the node's.
		late.Reset(s.patience)
		more := in.Scan()
		late.Stop()
		if !more {
			break
		}
		item := bytes.TrimSpace(in.Bytes())
		switch {
		case len(item) == 0:
		case item[0] != '{' || !json.Valid(item):
			return errors.New("it answers with what is no listing")
		default:
			if err := pass(item); err != nil {
				return err
			}
		}
	}
	return why(in.Err())
}

// ViewOfFleet asks all nodes for a view, and calls yield with each item, an object in JSON, as it
// comes; the filter is for ViewQueue alone. It returns the nodes that did not answer, or not
// to the end.
func (c *Client) ViewOfFleet(ctx context.Context, view string, f Filter, yield func(node string, item json.RawMessage) error) (missing []Unanswered, err error) {
	path := url.URL{Path: viewPath + view, RawQuery: f.values().Encode()}
	resp, err := c.get(ctx, path.String())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReaderSize(resp.Body, listingBuffer))
	for {
		var line viewLine
		if err := dec.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return missing, fmt.Errorf("control socket: %w", err)
		}
		switch {
		case line.End:
			return missing, nil
		case line.Error != "":
			missing = append(missing, Unanswered{line.Node, line.Error})
		default:
			if err := yield(line.Node, line.Item); err != nil {
				return missing, err
			}
		}
	}
}
