package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/route"
)

const (
	// requestFor is how long a receiver may take. Standard Webhooks, "Request timeouts",
	// has 15 to 30 seconds.
	requestFor = 30 * time.Second
	// dialFor is how long a connect and a TLS handshake may take, each.
	dialFor = 10 * time.Second
	// maxAnswer is how many octets of an answer are read, so that the connection can be used
	// again; a longer one closes it. maxShown is how many of them are told.
	maxAnswer = 64 << 10
	maxShown  = 200
)

// newClient returns the client of a webhook.
func (s *Sender) newClient(c *config.Webhook) (*http.Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("its url cannot be read") // the error would show it
	}
	dial := s.o.Dial
	if dial == nil {
		d := net.Dialer{Timeout: dialFor, Control: guard(u.Hostname())}
		dial = d.DialContext
	}
	return &http.Client{
		Timeout: requestFor,
		Transport: &http.Transport{ // without Proxy: the environment names none
			DialContext:         dial,
			TLSClientConfig:     &tls.Config{RootCAs: s.policy.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: dialFor, MaxConnsPerHost: 2, MaxIdleConns: 2, IdleConnTimeout: 90 * time.Second,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// guard returns what a dialer asks before it connects to an address, which is after the
// look-up of a name: whoever has that name could have it lead anywhere, and elsewhere the
// next time. host is that of the URL.
func guard(host string) func(network, address string, _ syscall.RawConn) error {
	literal, err := netip.ParseAddr(host)
	named := err == nil
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		switch {
		case err != nil:
			return err
		case named && at.Addr().Unmap() == literal.Unmap():
			return nil // the configuration was checked for what may stand there
		case route.Special(at.Addr()):
			return fmt.Errorf("%s leads to %s, which is loopback, private or the like; remedy: write the address itself into url, if it is meant", host, at.Addr())
		}
		return nil
	}
}

// answer is what came of a request.
type answer struct {
	code  int           // of HTTP; 0: there was none
	text  string        // in words, without the URL
	after time.Duration // Retry-After; 0: it does not say
}

func (a *answer) taken() bool { return a.code/100 == 2 }

// refused reports whether the request itself is at fault, and would be at a further try.
func (a *answer) refused() bool {
	switch a.code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return a.code/100 == 4
}

// post sends one request. Its id is made of the body, and so is the same at each try, and for no
// other body.
func (h *hook) post(ctx context.Context, body []byte) answer {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.config.URL, bytes.NewReader(body))
	if err != nil {
		return answer{text: "its url cannot be used"}
	}
	now, id := time.Now(), hashed("msg_", body)
	stamp := strconv.FormatInt(now.Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Millrace/"+h.sender.o.Version)
	r.Header["webhook-id"] = []string{id} // the specification has these names in lower case
	r.Header["webhook-timestamp"] = []string{stamp}
	r.Header["Idempotency-Key"] = nil // not sent: net/http then tries again itself where a kept connection has just ended
	if len(h.config.Keys) > 0 {
		r.Header["webhook-signature"] = []string{sign(h.config.Keys, id, stamp, body)}
	}
	if h.config.User != "" {
		r.SetBasicAuth(h.config.User, h.config.Password)
	}
	resp, err := h.client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL
		}
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.As(err, new(x509.UnknownAuthorityError)) {
			err = fmt.Errorf("%w; remedy: have the receiver show a valid certificate, or name its authority in tls_ca_file", err)
		}
		return answer{text: plain(err.Error())}
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // of what is cut short the beginning is told
	a := answer{code: resp.StatusCode, text: strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)}
	if !a.taken() {
		if t := plain(string(text)); t != "" {
			a.text += ": " + t
		}
		if !a.refused() { // of one event that it refuses, Retry-After would hold up the others
			a.after = retryAfter(resp.Header.Get("Retry-After"), now)
		}
	}
	if a.code/100 == 3 {
		a.text += "; redirects are not followed; remedy: write the URL that it leads to"
	}
	return a
}

// sign makes the signatures of Standard Webhooks ("Signature scheme"): of the id, the time and
// the body, one with each key.
func sign(keys [][]byte, id, stamp string, body []byte) string {
	var list []string
	for _, key := range keys {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(id + "." + stamp + "."))
		m.Write(body)
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	}
	return strings.Join(list, " ")
}

// retryAfter reads the header of RFC 9110 section 10.2.3: seconds, or a date.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

// plain is the beginning of a text that a stranger wrote, as one line.
func plain(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "..."
	}
	return s
}
