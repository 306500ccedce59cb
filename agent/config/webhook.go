package config

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Webhook is one [[webhook]]: events are posted to a URL, at least once and in their order,
// from a log of the agent's own in state_directory. A receiver that is away costs no memory:
// events wait in that log for seven days, or 256 MiB of them for all webhooks together, and
// what is dropped then is told. Nothing of it holds mail up. millrace-events(5) has the body
// of a request; millrace webhook lists, tests and replays.
type Webhook struct {
	// Name names the webhook in listings, and its place in the log: one that gets another
	// name begins anew, and what is removed is forgotten. Required, and each name once.
	Name string `toml:"name"`
	// URL is where events are posted to: https, and http only to an address of loopback or
	// of a private network that stands there as such ("http://127.0.0.1:9000/webhooks/bounce").
	// Names that lead to such addresses are not connected to, redirects are not followed,
	// certificates must be valid (tls_ca_file of [agent] counts). Required.
	URL string `toml:"url"`
	// Form is "millrace", a JSON object with up to 100 events; or "listmonk", one bounce a
	// request as that takes it at /webhooks/bounce: bounced and late_bounce are "hard" where
	// the address is of no use any more, else "soft", complaint is "complaint", if it
	// counts. A stream that is a UUID is campaign_uuid there: a [[milter.rule]] with
	// stream = "{header:X-Listmonk-Campaign}" makes it so. Default: "millrace".
	Form WebhookForm `toml:"form"`
	// Events are those that are posted, by their names in millrace-events(5). For
	// "listmonk" also deferred may be named, which is "soft".
	// Default: ["bounced", "late_bounce", "complaint"].
	Events []string `toml:"events"`
	// Streams are globs over the names of streams; case does not matter. Default: all.
	Streams []string `toml:"streams"`
	// Secret signs requests after the Standard Webhooks specification (standardwebhooks.com):
	// "whsec_" and 24 to 64 octets in base64, as printf whsec_; openssl rand -base64 32
	// makes it. Several, with blanks between them, sign each, while the receiver changes over.
	// The file that has it must be for root and the agent's group only: write it into one
	// of its own, /etc/millrace/conf.d/webhook.toml. Default: none.
	Secret string `toml:"secret"`
	// User and PasswordFile are for basic authentication: of listmonk a user of its API,
	// and a file with its token as the only line, for root and the agent's group only.
	// Default: none.
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`

	Keys     [][]byte `toml:"-"` // of Secret
	Password string   `toml:"-"` // of PasswordFile
	Refused  string   `toml:"-"` // why nothing is posted; "": it is

	File string `toml:"-"` // where the webhook stands, for messages
	Line int    `toml:"-"`
}

// WebhookForm is the form of a request.
type WebhookForm string

// The forms.
const (
	FormMillrace WebhookForm = "millrace"
	FormListmonk WebhookForm = "listmonk"
)

// webhookEvents are the names of events, and of these what listmonk has a word for.
var (
	webhookEvents = []string{
		"sent", "deferred", "bounced", "handed_back", "cancelled", "suppressed", "damaged", "returning", "stuck", "late_bounce", "complaint", "feedback", "moved",
	}
	listmonkEvents = []string{"bounced", "late_bounce", "complaint", "deferred"}
	defaultEvents  = []string{"bounced", "late_bounce", "complaint"}
)

// maxWebhooks bounds the [[webhook]]s, each of which reads the log by itself.
const maxWebhooks = 20

func (l *loader) checkWebhooks() {
	names := map[string]Notice{}
	for i := range l.cfg.Webhooks {
		w, path := &l.cfg.Webhooks[i], fmt.Sprintf("webhook[%d]", i)
		l.checkUnique("webhook", "crm", path, w.Name, 64, names)
		if i == maxWebhooks {
			l.fail(path, remedy(fmt.Sprintf("more than %d webhooks", maxWebhooks), "have one receiver pass events on"))
		}
		l.checkWebhookURL(w, path)
		if w.Form == "" {
			w.Form = FormMillrace
		}
		l.notEmpty(path+".events", w.Events, `name some, like "bounced", or leave it out`)
		l.notEmpty(path+".streams", w.Streams, `write patterns of streams' names, like "news-*", or leave it out`)
		l.globs(path+".streams", w.Streams, plainGlob)
		allowed, of := webhookEvents, "events"
		if w.Form == FormListmonk {
			allowed, of = listmonkEvents, "events that listmonk takes"
		}
		for j, e := range w.Events {
			if !slices.Contains(allowed, e) {
				l.failElement(path+".events", j, remedy(fmt.Sprintf("events: %q is unknown", e), of+" are "+strings.Join(allowed, ", ")))
			}
		}
		if len(w.Events) == 0 && !l.bad[path+".events"] {
			w.Events = slices.Clone(defaultEvents)
		}
		l.checkWebhookSecrets(w, path)
	}
}

func (l *loader) checkWebhookURL(w *Webhook, path string) {
	if l.bad[path+".url"] {
		return
	}
	if w.URL == "" {
		l.fail(path, remedy(fmt.Sprintf("webhook %q has no url", w.Name), `add url = "https://example.com/events"`))
		return
	}
	// The text of an error would repeat the URL, which may have a token in it.
	wrong := func(text, todo string) { l.fail(path+".url", remedy("url: "+text, todo)) }
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		wrong("this is no URL of http or https", `write it like "https://example.com/events"`)
		return
	case u.User != nil:
		wrong("a password in a URL is shown with it", "write user and password_file")
		return
	case u.Fragment != "":
		wrong("a fragment (#) is not sent", "remove it")
		return
	}
	addr, err := netip.ParseAddr(u.Hostname())
	literal := err == nil && addr.Zone() == ""
	addr = addr.Unmap()
	if name, err := ListedDomain(u.Hostname()); !literal && (err != nil || strings.HasPrefix(name, "*")) || u.Port() != "" && !isPort(u.Port()) {
		wrong("this is no URL of http or https", `write it like "https://example.com/events"`)
		return
	}
	switch {
	case literal && (addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast()):
		wrong(fmt.Sprintf("nothing is posted to %s, which is unspecified, multicast or link-local", addr), "name the address of one host")
	case u.Scheme == "http" && !(literal && (addr.IsLoopback() || addr.IsPrivate())):
		wrong("http shows addresses, and any password, to everybody on the way", `write https; http only to an address of loopback or a private network, as in "http://127.0.0.1:9000/webhooks/bounce"`)
	case w.Form == FormListmonk && strings.Trim(u.Path, "/") == "":
		wrong("listmonk takes bounces at a path", `write it like "http://127.0.0.1:9000/webhooks/bounce"`)
	}
}

func (l *loader) checkWebhookSecrets(w *Webhook, path string) {
	if w.Secret != "" && !l.bad[path+".secret"] {
		secrets := strings.Fields(w.Secret)
		if len(secrets) == 0 {
			secrets = []string{""} // blanks alone sign nothing, and whoever wrote them wants signatures
		}
		for _, s := range secrets {
			text, ok := strings.CutPrefix(s, "whsec_")
			key, err := base64.StdEncoding.DecodeString(text)
			if !ok || err != nil || len(key) < 24 || len(key) > 64 {
				l.fail(path+".secret", remedy(`secret: this is not "whsec_" and 24 to 64 octets in base64`, "make one: printf whsec_; openssl rand -base64 32"))
				break
			}
			w.Keys = append(w.Keys, key)
		}
		if at := l.place(path + ".secret"); at.File != "" {
			if who := l.exposed(at.File); who != "" {
				w.Refused = fmt.Sprintf("secret: %s can read %q", who, at.File)
				l.refuse(path+".secret", remedy(w.Refused+"; nothing is posted, and its events wait", ownReaders+"; then get a new secret"))
			}
		}
	}
	switch {
	case w.User == "" && w.PasswordFile == "":
		return
	case w.PasswordFile == "":
		l.fail(path+".user", remedy("user: a user without a password", "name the file that has it in password_file"))
		return
	case w.User == "":
		l.fail(path+".password_file", remedy("password_file: a password without a user", "name the user, without a colon, in user"))
		return
	case strings.Contains(w.User, ":"):
		l.fail(path+".user", remedy(fmt.Sprintf("user: %q has a colon, which ends a user's name there", w.User), "name another user"))
		return
	}
	text, refused, ok := l.secretFile(path+".password_file", w.PasswordFile, "nothing is posted, and its events wait")
	switch {
	case refused != "":
		w.Refused = refused
	case !ok: // told, or not this user's business
		w.Refused = fmt.Sprintf("password_file: %q may not be read by this user", w.PasswordFile)
	case text == "" || strings.ContainsAny(text, "\r\n\x00"):
		l.fail(path+".password_file", remedy(fmt.Sprintf("password_file: %q is not one line", w.PasswordFile), "write the password, nothing else"))
	default:
		w.Password = text
	}
}
