package move

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/millrace/millrace/agent/spool"
)

// FuzzRequests has a node ask whatever it likes: it is answered, this node starts again with what
// was written down, and takes mail as before.
func FuzzRequests(f *testing.F) {
	e := spool.Envelope{Sender: "news@example.com", Recipients: []spool.Recipient{{Address: "r@d.example"}}}
	head := func(change func(*header)) []byte {
		h := header{Version: version, Transfer: "t", Number: 1, Messages: []headerMessage{{
			message: message{ID: "M1A-3F0040", Recipients: []recipient{{Tries: 1}}}, Size: 4, Envelope: spool.EncodeEnvelope(&e)}}}
		change(&h)
		b, err := json.Marshal(&h)
		if err != nil {
			f.Fatal(err)
		}
		return append(b, "\nabcd"...)
	}
	confirm := []byte(`{"v":1,"transfer":"t","number":1,"moved":["M1A-3F0040"]}`)
	f.Add(head(func(*header) {}), confirm)
	f.Add(head(func(h *header) { h.Transfer = "../t" }), confirm)
	f.Add(head(func(h *header) { h.Number = 1 << 60 }), confirm)
	f.Add(head(func(h *header) { h.Messages[0].Back, h.Messages[0].As = true, "x" }), confirm)
	f.Add(head(func(h *header) { h.Messages[0].Recipients[0].Ordinal = 1 << 31 }), confirm)
	f.Add(head(func(h *header) { h.Messages[0].Size = 1 << 62 }), confirm)
	f.Add(head(func(h *header) { h.Messages = append(h.Messages, h.Messages[0]) }), confirm)
	f.Add(head(func(h *header) { h.Messages = nil }), confirm)
	f.Add([]byte("{}\n"), []byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, batch, confirm []byte) {
		w := newWorld(t, 1, "a", "b")
		b := w.nodes["b"]
		ask := func(path string, body []byte) {
			rec := httptest.NewRecorder()
			b.p.mover.Handler(func(*http.Request) string { return "a" }).ServeHTTP(rec, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)))
			if rec.Code != http.StatusOK && rec.Code != http.StatusConflict && rec.Code != http.StatusServiceUnavailable {
				t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
			}
		}
		ask(pathBatch, batch)
		ask(pathConfirm, confirm)
		ask(pathBatch, batch)
		b.kill()
		b.start()
		a := w.nodes["a"]
		a.accept(1, 2)
		w.until("the mail is queued", func() bool { return len(a.p.queued()) == 2 })
		if n, err := a.p.move("b", all); n != 2 || err != nil {
			t.Errorf("%d of 2 recipients are moved: %v", n, err)
		}
	})
}
