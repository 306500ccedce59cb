package control

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

// TestReportOfANewerMilterIsTaken has the milter tell what this agent does not know yet.
func TestReportOfANewerMilterIsTaken(t *testing.T) {
	t.Parallel()
	f := fixed{told: make(chan MilterReport, 1)}
	c := client(t, open(t, f))
	resp, err := c.do(t.Context(), "POST", "/v1/milter",
		strings.NewReader(`{"messages":{"leave":3},"of_tomorrow":{"a":[1]},"recipients":4,"connections":5}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := <-f.told; got.Messages["leave"] != 3 || got.Recipients != 4 || got.Connections != 5 {
		t.Errorf("the agent was told %+v", got)
	}
}

// TestOlderAgentIsNamed asks agents that are older than what asks. They are played with what
// released ones say to a path, a method or a field that they do not know. What an agent of
// today says of a field is the same; it does no order in part.
func TestOlderAgentIsNamed(t *testing.T) {
	t.Parallel()
	address := filepath.Join(t.TempDir(), "old.sock")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/handback", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/pause", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `json: unknown field "reason"`, http.StatusBadRequest)
	})
	mux.HandleFunc("GET /v1/queue", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `filter: json: unknown field "text"`, http.StatusBadRequest)
	})
	mux.HandleFunc("POST /v1/act", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"recipients":0,"messages":0,"active":0,"end":true,"error":"\"hold\" is no verb for queued mail"}`)
	})
	mux.HandleFunc("POST /v1/suppress", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, `0 entries added, then: json: unknown field "reason"`, http.StatusUnprocessableEntity)
	})
	s := &http.Server{Handler: mux}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	c := client(t, "unix:"+address)
	_, path := c.FindSite(t.Context(), "x")
	_, method := c.HandBack(t.Context(), Filter{All: true})
	listing := c.Messages(t.Context(), Filter{Text: "x"}, func(*Message) error { return nil })
	_, list := c.Suppress(t.Context(), some(1, "s", nil))
	_, verb := c.Act(t.Context(), Action{Verb: VerbHold}, nil)
	today := client(t, open(t, fixed{n: 7}))
	of := func(path, body string) error {
		method := "POST"
		if body == "" {
			method = "GET"
		}
		resp, err := today.do(t.Context(), method, path, strings.NewReader(body))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for what, err := range map[string]error{
		"path": path, "method": method, "field": c.Pause(t.Context(), Pause{Reason: "x"}), "field of a filter": listing, "field in a list": list, "verb": verb,
		"path, today": of("/v1/tomorrow", "{}"), "field, today": of("/v1/pause", `{"of_tomorrow":1}`),
		"field of a shape's filter, today": of("/v1/shape?by=site&filter="+url.QueryEscape(`{"of_tomorrow":1}`), ""),
		"field of a filter, today":         of("/v1/resume", `{"all":true,"of_tomorrow":"x"}`),
	} {
		if !errors.Is(err, ErrOlder) || !strings.Contains(err.Error(), "restart millrace-agent") || strings.Contains(err.Error(), "json:") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.Milter(t.Context(), MilterReport{}); !errors.Is(err, ErrOlder) {
		t.Errorf("milter: %v", err)
	}
	if _, err := today.Why(t.Context(), "other"); !errors.Is(err, ErrUnknown) || errors.Is(err, ErrOlder) {
		t.Errorf("a site that is not known: %v", err)
	}
}

// TestOrdersOfAnOlderCommandAreRead has what the command of version 0.2.0 writes.
func TestOrdersOfAnOlderCommandAreRead(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7, told: make(chan MilterReport, 1)}))
	const filter = `{"all":true,"id":"M1-A0","stream":"s","queue":"q","site":"s","domain":"d","sender":"<>","recipient":"r@x",` +
		`"user":"u","client":"192.0.2.1","state":"held","older_than":"36h0m0s","text":"t"}`
	for _, x := range [][2]string{
		{"/v1/resume", filter},
		{"/v1/limit", `{"name":"google","sessions":3,"rate":0.5,"until":"2026-11-28T20:00:00Z"}`},
		{"/v1/forget", `"google"`},
		{"/v1/priority", `{"stream":"s","priority":2}`},
		{"/v1/act", `{"verb":"hold","filter":` + filter + `,"dry":true}`},
		{"/v1/handback", filter},
		{"/v1/milter", `{"host_mail":{"big.test":2},"messages":{"leave":3},"one_family":{"opt-in":1},"recipients":4,"connections":5}`},
		{"/v1/unsuppress", `{"addresses":["ann@far.test"]}`},
	} {
		resp, err := c.do(t.Context(), "POST", x[0], strings.NewReader(x[1]))
		if err != nil {
			t.Errorf("%s: %v", x[0], err)
			continue
		}
		resp.Body.Close()
	}
	// The backend refuses each pause: it has been read then.
	_, err := c.do(t.Context(), "POST", "/v1/pause", strings.NewReader(`{"filter":`+filter+`,"reason":"x","until":"2026-11-28T20:00:00Z"}`))
	if err == nil || !strings.Contains(err.Error(), "because of x: not for") {
		t.Errorf("pause: %v", err)
	}
}
