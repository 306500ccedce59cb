package outcome

import (
	"bufio"
	"crypto/sha256"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// line is one of testdata/replies.tsv.
type line struct {
	at     int
	stage  Stage
	host   string
	code   int
	status string
	text   string
	class  Class
	hard   bool
	action Action
	origin string
	fold   int
}

// parseReply takes "550 5.1.1 no" apart as package smtp does.
func parseReply(t testing.TB, s string) (code int, status, text string) {
	t.Helper()
	code, err := strconv.Atoi(s[:3])
	if err != nil {
		t.Fatalf("%q is no reply", s)
	}
	text = strings.TrimSpace(s[3:])
	if first, rest, _ := strings.Cut(text, " "); first != "" {
		if _, _, ok := split(first); ok {
			status, text = first, rest
		}
	}
	return code, status, text
}

func (l *line) attempt() Attempt {
	host := strings.Replace(l.host, "*", "mx1", 1)
	if host == "-" {
		host = "mx.far.test"
	}
	return Attempt{Stage: l.stage, Code: l.code, Enhanced: l.status, Text: l.text, Peer: host + "[192.0.2.1]", Born: born, To: "r@far.test"}
}

func corpus(t testing.TB) (list []line) {
	t.Helper()
	f, err := os.Open("testdata/replies.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		at++
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		x := strings.Split(s.Text(), "\t")
		if len(x) != 8 {
			t.Fatalf("line %d: %d fields", at, len(x))
		}
		l := line{at: at, host: x[1], hard: x[4] == "hard", origin: x[6], fold: fold(x[2])}
		var ok, known bool
		l.stage, ok = ParseStage(x[0])
		l.class, known = ParseClass(x[3])
		if l.action = Retry; x[5] == "bounce" {
			l.action = Bounce
		}
		if !ok || !known || x[7] == "" {
			t.Fatalf("line %d: %q", at, s.Text())
		}
		l.code, l.status, l.text = parseReply(t, x[2])
		list = append(list, l)
	}
	return list
}

var changing = regexp.MustCompile(`\S+@\S+|\d+`)
var noWord = regexp.MustCompile(`\W+`)

// fold is the tenth of the corpus that a reply belongs to: that of its words, so that the
// same words from two servers are not in two.
func fold(reply string) int {
	words := strings.TrimSpace(noWord.ReplaceAllString(changing.ReplaceAllString(strings.ToLower(reply), "#"), " "))
	sum := sha256.Sum256([]byte(words))
	return int(sum[31]) % 10
}

func TestCorpus(t *testing.T) {
	t.Parallel()
	wrongClass, wrongHard, n := 0, 0, 0
	for _, l := range corpus(t) {
		n++
		d := policy().Decide(born, l.attempt())
		if d.Class != l.class {
			wrongClass++
		}
		if d.Hard != l.hard {
			wrongHard++
		}
		if d.Class != l.class || d.Hard != l.hard || d.Action != l.action {
			t.Errorf("line %d: %d %s %s: %v, hard %v, action %v by %s; want %v, %v, %v", l.at, l.code, l.status, l.text, d.Class, d.Hard, d.Action, d.Rule, l.class, l.hard, l.action)
		}
	}
	t.Logf("%d replies, %d classes wrong, %d hard wrong", n, wrongClass, wrongHard)
}

// The tables hold more than single cases: cut to what nine tenths of the corpus call for
// (of the vocabulary what occurs in one of their replies, of the readings what reads one
// of them) they read most of the other tenth. That is a lower bound: it takes away what
// documents tell of codes and languages too.
func TestTenthsReadByWhatTheOthersCallFor(t *testing.T) {
	t.Parallel()
	all := corpus(t)
	wrongClass, wrongHard := 0, 0
	texts := make([]reader, len(all))
	saying := make(map[string][]int) // replies with a word
	for i, l := range all {
		texts[i].split(l.text, "r")
		for k := range texts[i].n {
			w := string(texts[i].word(k))
			saying[w] = append(saying[w], i)
		}
	}
	with := make(map[string][]int) // phrase: tenths that it occurs in
	look := func(p string, lexicon *lexicon, replies []int) {
		for _, i := range replies {
			if fold := all[i].fold; !slices.Contains(with[p], fold) && texts[i].notions(lexicon) != 0 {
				with[p] = append(with[p], fold)
			}
		}
	}
	for _, v := range vocabulary {
		for p := range strings.SplitSeq(v.phrases, "|") {
			only := newLexicon(func(x string) bool { return x == p })
			first, isStem := strings.CutSuffix(phraseWords(strings.TrimPrefix(p, "+"))[0], "*")
			if !isStem {
				look(p, &only, saying[first])
				continue
			}
			for w, replies := range saying {
				if strings.HasPrefix(w, first) {
					look(p, &only, replies)
				}
			}
		}
	}
	for tenth := range 10 {
		occurs := func(p string) bool { return slices.ContainsFunc(with[p], func(f int) bool { return f != tenth }) }
		reached := make(map[string]bool)
		for _, l := range all {
			if a := l.attempt(); l.fold != tenth {
				reached[shipped.classify(&a, l.status).name] = true
			}
		}
		cut := tables{words: newLexicon(occurs)}
		for _, r := range readings {
			if reached[r.name] {
				cut.readings = append(cut.readings, r)
			}
		}
		for _, l := range all {
			if l.fold != tenth {
				continue
			}
			a := l.attempt()
			x := cut.classify(&a, l.status)
			hard := l.action == Bounce && x.class.Hard() && x.ofRecipient
			if x.class != l.class {
				wrongClass++
			}
			if hard != l.hard {
				wrongHard++
			}
		}
	}
	n := float64(len(all))
	t.Logf("%d replies, %d classes (%.1f%%) and %d hard or not (%.1f%%) wrong", len(all), wrongClass, 100*float64(wrongClass)/n, wrongHard, 100*float64(wrongHard)/n)
	if float64(wrongClass) > 0.14*n || float64(wrongHard) > 0.025*n {
		t.Errorf("%d classes and %d hard or not are wrong of %d", wrongClass, wrongHard, len(all))
	}
}

// Each reading is reached by its sample, and none before it. (A sample of a reading about
// a recipient is a reply of another host.)
func TestEachReadingIsForItsSample(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, r := range readings {
		if names[r.name] {
			t.Errorf("%s: there are two", r.name)
		}
		names[r.name] = true
		x := strings.SplitN(r.sample, " ", 3)
		stage, _ := ParseStage(x[0])
		l := line{stage: stage, host: x[1]}
		l.code, l.status, l.text = parseReply(t, x[2])
		a := l.attempt()
		if got := shipped.classify(&a, l.status); got.name != r.name || got.class != r.class {
			t.Errorf("%s: its sample is read by %s, as %v", r.name, got.name, got.class)
		}
	}
}

func TestCorpusIsWideEnough(t *testing.T) {
	t.Parallel()
	origins := make(map[string]bool)
	all := corpus(t)
	for _, l := range all {
		origins[l.origin] = true
		switch l.class {
		case ClassUserUnknown, ClassHostUnknown, ClassHasMoved:
		default:
			if l.hard {
				t.Errorf("line %d: hard, and not about the recipient", l.at)
			}
		}
	}
	if len(all) < 300 || len(origins) < 40 {
		t.Errorf("%d replies of %d origins", len(all), len(origins))
	}
}
