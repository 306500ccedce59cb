package web

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// hold is a site that keeps mail waiting, and why.
type hold struct {
	Name, Link string
	How        string
	Why        string
	Waiting    string
}

// holds are the sites that get less than they could, those with most mail first, and what
// is left out.
func (v *view) holds() (list []hold, more string) {
	held := slices.DeleteFunc(slices.Clone(v.Sites), func(s Site) bool { return s.Held.Reason == "" })
	for _, s := range v.Sites {
		if s.Paused > 0 {
			s.Waiting, s.Held = s.Paused, Held{Reason: "paused", How: "paused", Reply: s.PausedBy}
			held = append(held, s)
		}
	}
	if n := v.homeless(); n > 0 {
		held = append(held, Site{Waiting: n}) // of no name
	}
	slices.SortFunc(held, byLoad(v.rates))
	left := held[min(maxHolds, len(held)):]
	for _, s := range held[:len(held)-len(left)] {
		if s.Name == "" {
			list = append(list, hold{
				Name: "No site", How: "no mail server is known yet, or the mail is paused",
				Why: "millrace queue shows the reason of each.", Waiting: wait(s.Waiting),
			})
			continue
		}
		list = append(list, hold{
			Name: v.text(s.Name), Link: siteLink(s.Name), How: v.held(s), Why: v.text(s.why()), Waiting: wait(s.Waiting),
		})
	}
	return list, byReason(left)
}

// byReason counts sites that are left out, "3 more: 2 dead, 1 refused"; "" for none.
func byReason(list []Site) string {
	if len(list) == 0 {
		return ""
	}
	n := make(map[string]int)
	for _, s := range list {
		n[cmp.Or(s.Held.Reason, "of no site")]++
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, number(n[reason])+" "+strings.ReplaceAll(reason, "_", " "))
	}
	return fmt.Sprintf("%s more: %s", number(len(list)), strings.Join(parts, ", "))
}

// held says how a site is held back; "" if it is not.
func (v *view) held(s Site) string {
	h := &s.Held
	switch how := v.text(h.How); {
	case !h.Until.IsZero():
		return how + " until " + clock(h.Until, v.Time)
	case h.Next.After(v.Time):
		return how + ", tried again at " + clock(h.Next, v.Time)
	default:
		return how
	}
}

// why is what stands behind what a site gets.
func (s Site) why() string {
	if s.Held.Reason != "" {
		return s.Held.Reply
	}
	if s.Paused > 0 && s.Waiting == 0 {
		return s.PausedBy
	}
	return s.Cause
}

// doing says in a word or two what a site does.
func (v *view) doing(s Site) string {
	switch {
	case s.Held.Reason != "":
		return v.held(s)
	case s.Paused > 0 && s.Waiting == 0 && v.rates[s.Name] == 0:
		return "paused"
	case s.Sessions == 0 && s.Opening > 0:
		return "connecting"
	case s.Waiting == 0 && v.rates[s.Name] == 0:
		return "idle"
	default:
		return "sending"
	}
}

func siteLink(name string) string { return "/site?" + url.Values{"name": {name}}.Encode() }

func byLoad(rates map[string]float64) func(a, b Site) int {
	return func(a, b Site) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(rates[b.Name], rates[a.Name]),
			cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Name, b.Name))
	}
}

type siteRow struct {
	Name, Link, Queue              string
	Waiting, Sessions, Rate, Doing string
}

func (v *view) siteRows() (list []siteRow, more int) {
	sites := slices.Clone(v.Sites)
	slices.SortFunc(sites, byLoad(v.rates))
	sites, more = first(sites, maxSiteRows)
	for _, s := range sites {
		list = append(list, siteRow{
			Name: v.text(s.Name), Link: siteLink(s.Name), Queue: shown(s.Queue), Waiting: number(s.Waiting),
			Sessions: fmt.Sprintf("%s of %s", number(s.Sessions), number(max(s.Target, s.Sessions))),
			Rate:     amount(v.rates[s.Name]) + "/s", Doing: v.doing(s),
		})
	}
	return list, more
}

// sitePage explains one site.
type sitePage struct {
	Name      string
	Headline  string
	Why       string
	Figures   []figure
	Spans     []spanLink
	Addresses []addressRow
	Charts    []chart
	Changes   []changeRow
}

type addressRow struct{ Name, Slots, Accepted, Pace, State string }

type changeRow struct{ At, What, Cause string }

func (h *Handler) site(v *view) (any, *problem) {
	name := v.query.Get("name")
	at := slices.IndexFunc(v.Sites, func(s Site) bool { return s.Name == name })
	account, ok := v.explain(name)
	if at < 0 || !ok {
		return nil, &problem{http.StatusNotFound, fmt.Sprintf("No site %q is known at the moment; one that has had no mail for an hour is forgotten.", v.text(name))}
	}
	s := v.Sites[at]
	p := sitePage{Name: v.text(s.Name), Headline: v.doing(s), Why: v.text(s.why())}
	pace := "no limit"
	if s.Pace > 0 {
		pace = amount(s.Pace) + "/s"
	}
	wants := "wants " + number(max(s.Target, s.Sessions))
	if s.Opening > 0 {
		wants += ", " + number(s.Opening) + " connecting"
	}
	limit := "none found"
	if account.Whose != "" {
		limit = number(account.Want)
	}
	p.Figures = []figure{
		{"Backlog", number(s.Waiting), "ready to go"},
		{"Rate", amount(v.rates[name]) + "/s", "deliveries"},
		{"Sessions", number(s.Sessions), wants},
		{"Limit", limit, limitNote(&account)},
		{"Pace", pace, "queue " + shown(s.Queue)},
	}
	span, links := v.span(siteLink(name))
	p.Spans, p.Charts = links, v.siteCharts(name, span)
	for _, a := range account.Addresses {
		p.Addresses = append(p.Addresses, v.addressRow(&a))
	}
	for _, c := range slices.Backward(account.Changes) {
		row := changeRow{At: clock(c.At, v.Time), What: plural(c.To, "session"), Cause: v.text(c.Cause)}
		if c.From != c.To {
			row.What = number(c.From) + " → " + row.What
		}
		if c.Pace > 0 {
			row.What += ", at most " + amount(c.Pace) + " messages a second"
		}
		p.Changes = append(p.Changes, row)
	}
	return p, nil
}

// limitNote says whose the limit is, and what is allowed.
func limitNote(a *Account) string {
	note := "of " + number(a.MaxSessions) + " allowed"
	if a.Whose != "" {
		note += ", of " + a.Whose
	}
	if a.Host > 0 {
		note += "; " + number(a.Host) + " left to the host"
	}
	return note
}

func (v *view) addressRow(a *Address) addressRow {
	row := addressRow{Name: shown(a.Address), Slots: number(a.Held), Accepted: "no limit found", Pace: "no limit", State: "takes mail"}
	if a.Limited {
		row.Accepted = number(a.Accepted)
	}
	if a.Pace > 0 {
		row.Pace = amount(a.Pace) + "/s"
	}
	switch {
	case a.Failed != "":
		row.State = v.trouble(a)
	case a.Down:
		row.State = "no answer yet"
	case a.Opens.After(v.Time):
		row.State = "refuses; tried again at " + clock(a.Opens, v.Time)
	case a.Held == 0:
		row.State = "not used now"
	}
	if a.Reply != "" {
		row.State += ": " + v.text(a.Reply)
	}
	return row
}

// trouble says why an address is down, since when, and until when others go before it.
func (v *view) trouble(a *Address) string {
	text := "down"
	if !a.Since.IsZero() {
		text += " since " + clock(a.Since, v.Time)
	}
	switch {
	case a.Until.After(v.Time):
		text += ", passed by until " + clock(a.Until, v.Time)
	case a.Down:
		text += ", called now"
	case !a.Until.IsZero():
		text += ", not called again, due since " + clock(a.Until, v.Time)
	default:
		text += ", called next"
	}
	text += ": " + v.text(a.Failed)
	if a.Error != "" {
		text += "; " + v.text(a.Error)
	}
	return text
}
