package outcome

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// phrase is one of the vocabulary, after its first word.
type phrase struct {
	rest   []string // the words that follow; the last one may end with *
	notion notions
	inName bool
}

// lexicon finds phrases by their first word.
type lexicon struct {
	words map[string][]phrase
	stems map[string][]stem // single words with a *, by their first four octets
}

type stem struct {
	start  string
	notion notions
	inName bool
}

// stemKey is how many octets of a stem are looked up.
const stemKey = 4

// newLexicon makes the vocabulary ready for use: of all phrases, or of those that keep
// wants.
func newLexicon(keep func(phrase string) bool) lexicon {
	l := lexicon{make(map[string][]phrase), make(map[string][]stem)}
	for _, v := range vocabulary {
		for p := range strings.SplitSeq(v.phrases, "|") {
			if keep != nil && !keep(p) {
				continue
			}
			p, inName := strings.CutPrefix(p, "+")
			words := phraseWords(p)
			first, isStem := strings.CutSuffix(words[0], "*")
			if isStem && len(words) == 1 {
				l.stems[first[:stemKey]] = append(l.stems[first[:stemKey]], stem{first, v.notion, inName})
				continue
			}
			l.words[first] = append(l.words[first], phrase{words[1:], v.notion, inName})
		}
	}
	return l
}

// phraseWords are those of a phrase, as split takes them from a text.
func phraseWords(phrase string) (words []string) {
	for field := range strings.FieldsSeq(phrase) {
		start := 0
		for i, c := range field {
			if isCharacter(c) {
				if start < i {
					words = append(words, field[start:i])
				}
				start = i + utf8.RuneLen(c)
				words = append(words, field[i:start])
			}
		}
		if start < len(field) {
			words = append(words, field[start:])
		}
	}
	return words
}

// isCharacter says whether a rune is a word by itself: Chinese, Japanese and Korean have
// no blanks between words.
func isCharacter(c rune) bool {
	return 0x3040 <= c && c < 0xa000 || 0xac00 <= c && c < 0xd7b0 || 0xf900 <= c && c < 0xfb00
}

const (
	maxWords  = 64  // of a reply that are read: what matters is said first
	maxOctets = 512 // likewise; smtp.Reply keeps more, for those who read it
)

// reader takes a text apart. It lives on the stack: reading a reply allocates nothing.
type reader struct {
	text  [maxOctets]byte // words in lower case, one after the other
	words [maxWords]word
	n     int // words
	size  int // octets of text

	guess     bool // something is denied that may be
	addresses int  // mail addresses that were left out
	hosts     int  // words of host names and URLs
}

// word is one of a text.
type word struct {
	from, to uint16
	inName   bool // part of a host name or URL
}

func (r *reader) word(i int) []byte { return r.text[r.words[i].from:r.words[i].to] }

// split takes the words of a text. Mail addresses are left out, and so are the words that
// stand where the local part of the recipient's address is repeated: both were chosen by
// whoever wrote the list.
func (r *reader) split(text, local string) {
	if len(text) > maxOctets {
		text = text[:maxOctets]
	}
	for i := 0; i < len(text) && r.n < maxWords; {
		if isSpace(text[i]) || dots(text, i) {
			i++
			continue
		}
		end := i
		for end < len(text) && !isSpace(text[end]) && !dots(text, end) {
			end++
		}
		run := text[i:end]
		i = end
		if strings.IndexByte(run, '@') >= 0 || local != "" && len(run) <= len(local)+8 && strings.EqualFold(trim(run), local) {
			r.addresses++
			continue
		}
		if isAddress(run) {
			r.run("0ip", false)
			continue
		}
		r.run(run, isName(run))
	}
}

// dots says whether an octet begins or ends an ellipsis, which parts words: "<r@far.test>...User
// unknown".
func dots(text string, i int) bool {
	return text[i] == '.' && (i > 0 && text[i-1] == '.' || i+1 < len(text) && text[i+1] == '.')
}

// isName says whether a run of octets without blanks is a host name, an address or a URL:
// it has a dot or :// between letters or digits.
func isName(run string) bool {
	for i := 1; i+1 < len(run); i++ {
		switch {
		case run[i] == '.' && isWord(run[i-1]) && isWord(run[i+1]):
			return true
		case run[i] == ':' && strings.HasPrefix(run[i:], "://"):
			return true
		}
	}
	return false
}

// isAddress says whether a run is an IP address, bracketed or not. It is read as the word
// 0ip, which nobody writes.
func isAddress(run string) bool {
	dots, digits := 0, 0
	for i := range len(run) {
		switch c := run[i]; {
		case '0' <= c && c <= '9':
			digits++
		case c == '.' || c == ':':
			dots++
		case strings.IndexByte("[]()<>,;", c) < 0:
			return false
		}
	}
	return digits >= 4 && dots >= 3
}

func (r *reader) run(run string, name bool) {
	start := r.size
	end := func() {
		if r.size > start && r.n < maxWords {
			r.words[r.n] = word{uint16(start), uint16(r.size), name}
			r.n++
			if name {
				r.hosts++
			}
		}
		start = r.size
	}
	for i := 0; i < len(run); i++ {
		c := run[i]
		switch {
		case c >= utf8.RuneSelf:
			if char, n := utf8.DecodeRuneInString(run[i:]); isCharacter(char) {
				end()
				i += r.lower(run[i:][:n]) - 1
				end()
				continue
			}
			i += r.lower(run[i:]) - 1
			continue
		case (c == '\'' || c == '`') && r.size-start > 1: // doesn't is one word, l'utente two
			continue
		case !isWord(c):
			end()
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		r.text[r.size] = c
		r.size++
	}
	end()
}

// lower takes the first rune of a run, in lower case, and returns how long it is. What is
// no UTF-8, as Latin-1 is none, stays as it is.
func (r *reader) lower(run string) int {
	c, n := utf8.DecodeRuneInString(run)
	if low := unicode.ToLower(c); c != utf8.RuneError && utf8.RuneLen(low) == n {
		utf8.EncodeRune(r.text[r.size:], low)
	} else {
		copy(r.text[r.size:], run[:n])
	}
	r.size += n
	return n
}

// trim leaves out what is no word at the ends of a run.
func trim(run string) string {
	for len(run) > 0 && !isWord(run[0]) {
		run = run[1:]
	}
	for len(run) > 0 && !isWord(run[len(run)-1]) {
		run = run[:len(run)-1]
	}
	return run
}

func isSpace(c byte) bool { return c <= ' ' || c == 0x7f }

// isWord says whether an octet belongs to a word. All of UTF-8 beyond ASCII does.
func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}

// notions are those of the words that were split.
//
// That an address does not exist is said in too many ways to list. It is a denial with,
// within a few words after it, what an address does that exists ("could not be found"), or
// with the address itself ("no such mailbox", "not a user"). Who does not exist is what
// was named shortly before, else what is named next: an unknown domain is no unknown user.
func (r *reader) notions(l *lexicon) (found notions) {
	const (
		things  = nRecipient | nDomain | nSender | nSource | nMessage
		grammar = things | nUnknown | nExist | nValid | nInUse | nNot | nRejected | nUnavailable | nState // whose place matters
		far     = -maxWords
	)
	denied, named, missing := far, far, far // where, and who is missing is not known yet
	var name notions
	at := 0    // words, without those of names
	until := 0 // the end of a phrase that names something: "sender address" is no address
	for i := range r.n {
		if !r.words[i].inName {
			at++
		}
		here, length := r.notionsAt(i, l, found&^grammar)
		if i < until {
			here &^= things
		} else if here&things != 0 {
			until = i + length
		}
		found |= here &^ (nUnknown | nRejected | nUnavailable | nState)
		if thing := here & things; thing != 0 {
			if named, name = at, thing; at-missing <= nextReach {
				found |= absent(name)
				missing = far
			}
		}
		isDenied := at-denied <= denialReach
		switch {
		case here&nValid != 0 && isDenied:
			found |= nInvalid
		case here&nInUse != 0 && isDenied:
			found |= nDisabled
		case here&nUnknown != 0, here&nExist != 0 && isDenied, here&nRecipient != 0 && isDenied && r.fills(i-1, l) && r.ends(i+length):
			if at-named > nameReach || at-named > 1 && r.names(i+length, l) {
				missing = at
			} else {
				found |= absent(name)
			}
		}
		if here&nRejected != 0 && name == nRecipient && at-named <= refusalReach {
			found |= nRejected
		}
		if here&nUnavailable != 0 && (r.isOf(i-1, l) || r.precedes(i, i+length, l)) {
			found |= nUnavailable
		}
		if here&nState != 0 && r.isOf(i-1, l) {
			found |= nDisabled
		}
		if here&nNot != 0 {
			denied = at
			r.guess = r.guess || i > 0 && guesses(r.word(i-1))
		}
	}
	if missing != far {
		found |= nUnknown | nUnnamed
	}
	return found
}

// How many words apart what belongs together may be.
const (
	denialReach  = 3
	nameReach    = 6
	nextReach    = 2
	refusalReach = 3
)

// absent is the notion that what was named does not exist.
func absent(name notions) notions {
	switch {
	case name&(nSource|nSender) != 0:
		return 0
	case name&nRecipient != 0:
		return nUnknown
	case name&nDomain != 0: // or a "mail domain"
		return nNoDomain
	}
	return nUnknown | nUnnamed
}

// guesses says whether a word before a denial makes a guess of it: "may not exist".
func guesses(word []byte) bool { return string(word) == "may" || string(word) == "might" }

// fills says whether the words before a noun, from word i back to the denial that there
// is, are such as stand between "no" and a noun. No active user is no user; who is not an
// active one is there.
func (r *reader) fills(i int, l *lexicon) bool {
	said := false // of which kind it is not
	for ; i >= 0; i-- {
		switch string(r.word(i)) {
		case "such", "a", "an", "any", "the", "our", "known", "have", "registered", "of", "e", "mail", "email", "virtual", "matching", "existing", "destination", "solcher", "solche", "solches", "solchen":
		case "active", "local", "valid":
			said = true
		default:
			here, _ := r.notionsAt(i, l, 0)
			return here&nNot != 0 && (!said || string(r.word(i)) == "no")
		}
	}
	return false
}

// isOf says whether what stands up to word i is said of the recipient's address: "mailbox is
// currently". A service that is unavailable is another thing.
func (r *reader) isOf(i int, l *lexicon) bool {
	for ; i >= 0; i-- {
		switch string(r.word(i)) {
		case "is", "was", "are", "currently", "temporarily", "permanently", "now", "presently", "has", "been", "ist", "wurde", "est", "esta", "está", "e", "è":
		default:
			here, _ := r.notionsAt(i, l, 0)
			return here&nRecipient != 0
		}
	}
	return false
}

// precedes says whether an adjective before word next begins a text, or follows a number,
// and is one of the recipient's address: "unavailable mail user".
func (r *reader) precedes(i, next int, l *lexicon) bool {
	if i > 0 && (r.word(i - 1)[0] < '0' || r.word(i - 1)[0] > '9') {
		return false
	}
	for ; next < r.n; next++ {
		switch string(r.word(next)) {
		case "mail", "email", "destination":
		default:
			here, _ := r.notionsAt(next, l, 0)
			return here&nRecipient != 0
		}
	}
	return false
}

// names says whether word i is an address or a domain: "unknown domain".
func (r *reader) names(i int, l *lexicon) bool {
	if i >= r.n {
		return false
	}
	here, _ := r.notionsAt(i, l, 0)
	return here&(nRecipient|nDomain) != 0
}

// ends says whether a noun before word i is all that is denied: "no mailbox by that name",
// and not "no mailbox space".
func (r *reader) ends(i int) bool {
	if i >= r.n {
		return true
	}
	switch string(r.word(i)) {
	case "account", "address", "id", "mailbox", "name": // "no user account"
		return r.ends(i + 1)
	case "here", "by", "with", "for", "at", "in", "on", "of", "that", "found", "available", "named", "called", "matching", "exists", "exist", "from", "mit", "unter", "avec", "de", "con", "com":
		return true
	}
	return r.words[i].inName
}

// notionsAt are those of the phrases that begin with word i, and perhaps those that are
// found already; and of how many words the longest is.
func (r *reader) notionsAt(i int, l *lexicon, found notions) (notions, int) {
	w, longest := r.word(i), 1
	list := l.words[string(w)]
	for k := range list {
		if p := &list[k]; (found&p.notion == 0 || len(p.rest) >= longest) && (p.inName || !r.words[i].inName) && r.goesOn(i+1, p) {
			found |= p.notion
			longest = max(longest, 1+len(p.rest))
		}
	}
	if len(w) < stemKey {
		return found, longest
	}
	for _, s := range l.stems[string(w[:stemKey])] {
		if (s.inName || !r.words[i].inName) && len(w) >= len(s.start) && string(w[:len(s.start)]) == s.start {
			found |= s.notion
		}
	}
	return found, longest
}

// goesOn says whether the words from i on are the rest of a phrase.
func (r *reader) goesOn(i int, p *phrase) bool {
	if i+len(p.rest) > r.n {
		return false
	}
	for k, want := range p.rest {
		if string(r.word(i+k)) != want || r.words[i+k].inName && !p.inName {
			return false
		}
	}
	return true
}
