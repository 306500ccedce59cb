package sink

import (
	"encoding/json"
	"io"
	"net/http"
)

const maxSettings = 64 << 10 // octets of a change by HTTP

// Handler lets another process watch and change the Internet:
//
//	GET  /stats             [Stats] as JSON
//	GET  /ledger            the ledger as JSON, one record a line
//	GET  /ca                the certificate authority in PEM
//	GET  /behaviour/NAME    the behaviour of a provider or host, as TOML
//	POST /behaviour/NAME    sets the keys in the body, TOML as in a scenario;
//	                        the others stay as they are
//
// It has no access control: serve it on loopback only.
func (n *Internet) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(n.Stats()); err != nil {
			n.log.Warn("stats not written", "err", err)
		}
	})
	mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/jsonl")
		if err := n.ledger.WriteJSON(w); err != nil {
			n.log.Warn("ledger not written", "err", err)
		}
	})
	mux.HandleFunc("GET /ca", func(w http.ResponseWriter, r *http.Request) {
		pem, err := n.CAPEM()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-pem-file")
		w.Write(pem)
	})
	mux.HandleFunc("GET /behaviour/{name}", func(w http.ResponseWriter, r *http.Request) {
		b, ok := n.Behaviour(r.PathValue("name"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		text, err := b.toTOML()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/toml")
		w.Write(text)
	})
	mux.HandleFunc("POST /behaviour/{name}", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSettings))
		if err == nil {
			err = n.change(r.PathValue("name"), func(b *Behaviour) error { return b.setTOML(string(text)) })
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}
