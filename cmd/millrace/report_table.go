package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/milter/classify"
)

const (
	// maxRows bounds a table: some 6 MB at 300 octets a row, whatever the length
	// of the log.
	maxRows = 20_000
	// examples is how many queue ids a row keeps, the first ones.
	examples = 3
	// maxName is how much of a name or a queue id is kept, in octets.
	maxName = 128
)

// knownFamilies are all families of evidence.
var knownFamilies = []classify.Family{
	classify.OptInHeaders, classify.ListSoftware, classify.CampaignSoftware, classify.Structure, classify.ByVolume,
}

// tally counts messages and recipients.
type tally struct {
	Messages   int `json:"messages"`
	Recipients int `json:"recipients"`
}

func (t *tally) add(messages, recipients int) {
	t.Messages += messages
	t.Recipients += recipients
}

// entry is what a table knows of one name.
type entry struct {
	Name string `json:"name"`
	tally
	QueueIDs []string `json:"queue_ids"`
	Evidence []string `json:"evidence,omitempty"` // of streams: families that spoke
}

// table counts by name. When there are more than maxRows names, the half of
// them with the least recipients goes into rest, and begins anew if it comes
// again. So the sum of all rows and rest is exact at all times, and what is large
// keeps its row; the count of a row may be low by what it had when it was last
// among the small ones.
type table struct {
	rows   map[string]*entry
	rest   tally
	pruned bool
}

func newTable() table { return table{rows: map[string]*entry{}} }

func (t *table) add(name, queueID string, recipients int) {
	name = shown(name)
	r := t.rows[name]
	if r == nil {
		if len(t.rows) >= maxRows {
			t.prune()
		}
		r = &entry{Name: strings.Clone(name)} // not the whole line with it
		t.rows[r.Name] = r
	}
	r.add(1, recipients)
	if len(r.QueueIDs) < examples {
		r.QueueIDs = append(r.QueueIDs, strings.Clone(shown(queueID)))
	}
}

// spoke notes the families of evidence that spoke for a message of a row. They are few;
// others that somebody has written into a log are not kept.
func (t *table) spoke(name, families string) {
	r := t.rows[shown(name)]
	if r == nil || families == "" {
		return
	}
	for f := range strings.SplitSeq(families, ",") {
		if slices.Contains(knownFamilies, classify.Family(f)) && !slices.Contains(r.Evidence, f) {
			r.Evidence = append(r.Evidence, strings.Clone(f))
		}
	}
	slices.Sort(r.Evidence)
}

func (t *table) prune() {
	t.pruned = true
	for _, r := range t.sorted()[maxRows/2:] {
		t.rest.add(r.Messages, r.Recipients)
		delete(t.rows, r.Name)
	}
}

// sorted is all rows, the largest first.
func (t *table) sorted() []*entry {
	return slices.SortedFunc(maps.Values(t.rows), func(a, b *entry) int {
		return cmp.Or(cmp.Compare(b.Recipients, a.Recipients), cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.Name, b.Name))
	})
}

// top is the n largest rows, all for 0, and the sum of the others.
func (t *table) top(n int) ([]*entry, tally) {
	rows, others := t.sorted(), t.rest
	if n == 0 || n > len(rows) {
		n = len(rows)
	}
	for _, r := range rows[n:] {
		others.add(r.Messages, r.Recipients)
	}
	return rows[:n], others
}

// shown is a name from a log as a table keeps it: fit for a terminal and bounded.
func shown(s string) string { return printable.String(s[:min(len(s), maxName)]) }
