package inlet

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/agent/address"
	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/milter"
)

// signedFields are those of RFC 6376 section 5.4.1, what mail tools added since (RFC 8058),
// and Feedback-ID, which receivers believe only where it is signed.
var signedFields = map[string]bool{
	"from": true, "reply-to": true, "sender": true, "subject": true, "date": true, "message-id": true, "to": true, "cc": true,
	"in-reply-to": true, "references": true, "mime-version": true, "content-type": true, "content-transfer-encoding": true,
	"list-id": true, "list-help": true, "list-unsubscribe": true, "list-unsubscribe-post": true, "list-subscribe": true,
	"list-post": true, "list-owner": true, "list-archive": true, "feedback-id": true,
}

// sign returns the signature of a message that has none of its From's domain, "" where none
// is asked for. An error keeps the message from being spooled.
func sign(cfg *config.Config, head []byte, body io.Reader) ([]byte, error) {
	if len(cfg.DKIM) == 0 {
		return nil, nil
	}
	fields, err := milter.Fields(bytes.TrimSuffix(head, []byte("\r\n")))
	if err != nil {
		return nil, err
	}
	from := ""
	var keys []string
	for _, f := range fields {
		name := strings.ToLower(f.Name)
		if name == "from" {
			if from != "" {
				return nil, errors.New("header has two From fields")
			}
			if from = fromDomain(f.Value); from == "" {
				return nil, errors.New("header has a From that is not one address")
			}
		}
		if signedFields[name] {
			keys = append(keys, f.Name)
		}
	}
	d := cfg.DKIMFor(from)
	if d == nil {
		return nil, nil
	}
	for _, f := range fields {
		if strings.EqualFold(f.Name, "DKIM-Signature") && signs(f.Value, d.Domain) {
			return nil, nil
		}
	}
	if d.Signer == nil {
		return nil, errors.New("key_file of [[dkim]] " + d.Domain + " cannot be used")
	}
	s, err := dkim.NewSigner(&dkim.SignOptions{
		Domain: d.Domain, Selector: d.Selector, Signer: d.Signer,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
		HeaderKeys: append(keys, "From"), // once more than there are: no second one may be added
	})
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(s, io.MultiReader(bytes.NewReader(head), body))
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return []byte(s.Signature()), nil
}

// fromDomain is the domain of the one address of a From field, or "". A display name may be in
// any charset, and have what RFC 5322 allows only in quotes, like an address: list software
// writes both, which net/mail refuses. No comma may stand there, which begins another address.
func fromDomain(value string) string {
	var bare []byte // without comments, and what is quoted (RFC 5322 sections 3.2.2, 3.2.4)
	quoted, comments := false, 0
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\':
			i++
		case c == '"' && comments == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			comments++
		case c == ')' && comments > 0:
			comments--
		case comments == 0:
			bare = append(bare, c)
		}
	}
	name, addr, angled := strings.Cut(string(bare), "<")
	if !angled {
		name, addr = "", name
	} else if end := strings.TrimSpace(addr); strings.HasSuffix(end, ">") {
		addr = strings.TrimSuffix(end, ">")
	} else {
		return ""
	}
	at := strings.LastIndexByte(addr, '@')
	domain := strings.TrimSpace(addr[at+1:])
	if at < 0 || strings.ContainsAny(name, ",:;") || strings.ContainsAny(addr, ",:;<>") || !address.PlainDomain(domain) {
		return ""
	}
	return domain
}

// signs reports whether a signature is one of a domain or of a subdomain.
func signs(signature, domain string) bool {
	for tag := range strings.SplitSeq(signature, ";") {
		name, value, _ := strings.Cut(tag, "=")
		if strings.TrimSpace(name) == "d" {
			d := strings.ToLower(strings.TrimSpace(value))
			return d == domain || strings.HasSuffix(d, "."+domain)
		}
	}
	return false
}
