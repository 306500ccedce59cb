package web

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	cookieName  = "millrace"
	linkLife    = 5 * time.Minute
	sessionLife = 8 * time.Hour
	maxKeys     = 64 // of each kind; the oldest gives way
)

// keys are the secrets that let a browser see addresses: those in links, good
// for one use, and those in cookies, which a link is exchanged for.
type keys struct {
	mu      sync.Mutex
	links   map[string]time.Time // until when
	cookies map[string]time.Time
}

// put makes a secret of 128 bits or more.
func put(m *map[string]time.Time, now time.Time, life time.Duration) string {
	if *m == nil {
		*m = make(map[string]time.Time)
	}
	oldest := ""
	for k, until := range *m {
		if !now.Before(until) {
			delete(*m, k)
		} else if oldest == "" || until.Before((*m)[oldest]) {
			oldest = k
		}
	}
	if len(*m) >= maxKeys {
		delete(*m, oldest)
	}
	k := rand.Text()
	(*m)[k] = now.Add(life)
	return k
}

// Link returns the path and query that let one browser see addresses; good once,
// for five minutes.
func (h *Handler) Link() string {
	h.keys.mu.Lock()
	defer h.keys.mu.Unlock()
	return "/enter?" + url.Values{"token": {put(&h.keys.links, time.Now(), linkLife)}}.Encode()
}

// exchange takes a link's secret for a cookie's.
func (k *keys) exchange(link string, now time.Time) (cookie string, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	until := k.links[link]
	delete(k.links, link)
	if !now.Before(until) {
		return "", false
	}
	return put(&k.cookies, now, sessionLife), true
}

// trusted reports whether the request comes from a browser that may see addresses.
func (k *keys) trusted(r *http.Request, now time.Time) bool {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Before(k.cookies[c.Value])
}

// enter exchanges the secret of a link for a cookie, and leaves the link behind.
func (h *Handler) enter(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead { // a preview must not use the link up
		return
	}
	cookie, ok := h.keys.exchange(r.URL.Query().Get("token"), time.Now())
	if !ok {
		h.refuse(w, r, http.StatusForbidden, "This link was used already, or is older than five minutes. Get another one with: millrace web")
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookie, Path: "/", MaxAge: int(sessionLife.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	http.Redirect(w, r, "/failures", http.StatusSeeOther)
}
