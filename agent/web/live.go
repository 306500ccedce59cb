package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

const (
	// maxLive is how many pages are kept up to date at once; a browser shows the
	// others as they were.
	maxLive = 16
	// every is the time between two updates.
	every = 2 * time.Second
	// stall is how long an update may take to leave before its reader is dropped.
	stall = 5 * time.Second
)

// frame is what every page has.
type frame struct {
	Page     string // name of the template
	Title    string
	Hostname string
	Version  string
	AsOf     string
	Full     bool // addresses may be seen
	Body     any
}

// problem is why a page cannot be shown.
type problem struct {
	code int
	text string
}

// page serves what build makes: as a page, or again and again to those who ask for
// events.
func (h *Handler) page(name string, build func(*view) (any, *problem)) http.HandlerFunc {
	render := func(r *http.Request) ([]byte, *problem) {
		v := h.view(r)
		body, wrong := build(v)
		if wrong != nil {
			return nil, wrong
		}
		return h.render(v.frame(name, body)), nil
	}
	return func(w http.ResponseWriter, r *http.Request) {
		html, wrong := render(r)
		switch {
		case wrong != nil:
			h.refuse(w, r, wrong.code, wrong.text)
		case strings.Contains(r.Header.Get("Accept"), "text/event-stream"):
			h.live(w, r, html, render)
		default:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Write(html)
		}
	}
}

// live sends a page every two seconds until its reader leaves, is too slow, or
// may not see it any more.
func (h *Handler) live(w http.ResponseWriter, r *http.Request, html []byte, render func(*http.Request) ([]byte, *problem)) {
	// Another site's page cannot read the stream, but it could open it.
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		http.Error(w, "not for pages of other sites", http.StatusForbidden)
		return
	}
	select {
	case h.lives <- struct{}{}:
		defer func() { <-h.lives }()
	default:
		http.Error(w, "too many pages are kept up to date; reload this one instead", http.StatusServiceUnavailable)
		return
	}
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		out.SetWriteDeadline(time.Now().Add(stall)) // the server's own is for requests that end
		data, err := json.Marshal(string(html))
		if err != nil {
			return // not reached: a string can always be written
		}
		if _, err := w.Write(bytes.Join([][]byte{[]byte("data: "), data, []byte("\n\n")}, nil)); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
		var wrong *problem
		if html, wrong = render(r); wrong != nil {
			return
		}
	}
}

// render makes a page. A template that fails is a defect of ours, shown as such.
func (h *Handler) render(f frame) []byte {
	var b bytes.Buffer
	if err := h.pages.ExecuteTemplate(&b, "frame", f); err != nil {
		h.o.Log.Error("status page", "page", f.Page, "err", err)
		return []byte("<!doctype html><title>Millrace</title><p>This page could not be made; the agent's log says why.")
	}
	return b.Bytes()
}

// refuse answers with a page that says why.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, code int, text string) {
	v := h.view(r)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	w.Write(h.render(v.frame("refusal", text)))
}
