package postconf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// checks is what the tables of header_checks and its kin, or of access(5), do
// to a message beside letting it pass or refusing it.
type checks struct {
	actions []string // "HOLD in pcre:/etc/postfix/header_checks"
	unknown []string // "mysql:/etc/postfix/x (mysql tables are not looked into)"
	policy  []string // policy services, which may answer anything

	seen map[string]bool // tables and restriction classes: they may form circles
}

// first reports whether a table or class has not been looked at yet.
func (x *checks) first(name string) bool {
	if x.seen == nil {
		x.seen = map[string]bool{}
	}
	was := x.seen[name]
	x.seen[name] = true
	return !was
}

// add adds to a list what is not there yet.
func add(to *[]string, text string) {
	if !slices.Contains(*to, text) {
		*to = append(*to, text)
	}
}

// lookInto gathers what one table says. An access map's result may itself be a
// list of restrictions; those of a header check are never.
func (p *Postfix) lookInto(name string, access bool, found *checks) {
	if !found.first(name) {
		return
	}
	entries, err := p.table(name)
	if err != nil {
		add(&found.unknown, fmt.Sprintf("%s (%v)", name, err))
		return
	}
	for _, e := range entries {
		word, _ := cutBlank(e.result)
		action := strings.ToUpper(word)
		switch {
		case slices.Contains([]string{"HOLD", "FILTER", "REDIRECT", "BCC"}, action):
			add(&found.actions, action+" in "+name)
		case e.pattern && strings.Contains(word, "$"):
			add(&found.unknown, fmt.Sprintf("%s (the action %s is made of what matched)", name, word))
		case access && !isFinal(action):
			p.restrictions(tokens(e.result), nil, found)
		}
	}
}

// isFinal reports whether an action of access(5) is one by itself and not the
// first of a list of restrictions: what follows it is text.
func isFinal(action string) bool {
	return strings.Trim(action, "0123456789") == "" || slices.Contains([]string{
		"OK", "DUNNO", "REJECT", "DEFER", "DEFER_IF_PERMIT", "DEFER_IF_REJECT",
		"DISCARD", "PREPEND", "WARN", "INFO",
	}, action)
}

// restrictions gathers what the access maps of a list of restrictions say, and
// those of the restriction classes in it (RESTRICTION_CLASS_README). Where the
// words of exempt have all stood, no mail that may be diverted comes any further;
// nil stands for none.
func (p *Postfix) restrictions(words, exempt []string, found *checks) {
	classes := tokens(p.main["smtpd_restriction_classes"])
	permitted := map[string]bool{}
	for i := 0; i < len(words); i++ {
		word := words[i]
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
			if inside, ok := inBraces(next); ok { // "{ type:name, option=value }"
				if in := tokens(inside); len(in) > 0 {
					next = in[0]
				}
			}
		}
		switch {
		case word == "permit" || word == "reject" || word == "defer":
			return
		case slices.Contains(exempt, word):
			if permitted[word] = true; len(permitted) == len(exempt) {
				return
			}
		case word == "check_policy_service":
			add(&found.policy, next)
			i++
		case strings.HasPrefix(word, "check_") && strings.HasSuffix(word, "_access"):
			p.lookInto(next, true, found)
			i++
		case slices.Contains(classes, word):
			if found.first(word) {
				p.restrictions(tokens(p.main[word]), nil, found)
			}
		case isTable(word): // short for check_*_access of the list's own kind
			p.lookInto(word, true, found)
		}
	}
}

// exempt are the restrictions that, all of them, end a list for every client
// whose mail the scope lets be diverted; nil if that is not known. "warn_if_reject"
// before one of them changes nothing: it is about refusals.
func (p *Postfix) exempt(c *config.Config, s *service) []string {
	var words []string
	for _, scope := range c.Milter.Scope {
		switch scope {
		case "authenticated":
			words = append(words, "permit_sasl_authenticated")
		case "loopback":
			networks := list(p.value(s, "mynetworks"))
			ipv6 := !slices.Equal(list(p.value(s, "inet_protocols")), []string{"ipv4"})
			if !slices.Contains(networks, "127.0.0.0/8") || ipv6 && !slices.Contains(networks, "[::1]/128") {
				return nil
			}
			words = append(words, "permit_mynetworks")
		default:
			return nil
		}
	}
	return words
}

// isTable reports whether a word is "type:name".
func isTable(word string) bool {
	kind, name, ok := strings.Cut(word, ":")
	return ok && name != "" && kind != "" && strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz") == ""
}
