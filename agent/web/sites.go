package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// hold is a site that keeps mail waiting, and why.
type hold struct {
	Name, Link string
	How        string
	Why        string
	Waiting    string
}

// holds are the sites that give us less than we would take, those with most mail first.
func (v *view) holds() (list []hold, more int) {
	held := slices.DeleteFunc(slices.Clone(v.Sites), func(s Site) bool { return v.held(s) == "" })
	if n := v.homeless(); n > 0 {
		held = append(held, Site{Waiting: n}) // of no name
	}
	slices.SortFunc(held, byLoad(v.rates))
	held, more = first(held, maxHolds)
	for _, s := range held {
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
	return list, more
}

// held says how a site is held back; "" if it is not.
func (v *view) held(s Site) string {
	c := s.Clamp
	switch {
	case c.Until.IsZero():
		switch {
		case s.Slowed:
			return fmt.Sprintf("takes about %s messages a second", amount(s.Pace))
		case s.Waiting > 0 && s.Sessions == 0 && s.Reason != "":
			return "no session is up"
		}
		return ""
	case c.Sessions == 0:
		return "suspended until " + clock(c.Until, v.Time)
	case c.Sessions > 0:
		return fmt.Sprintf("at most %s until %s", plural(c.Sessions, "session"), clock(c.Until, v.Time))
	default:
		return fmt.Sprintf("at most %s messages a second until %s", amount(c.Pace), clock(c.Until, v.Time))
	}
}

// why is what stands behind what a site gets.
func (s Site) why() string {
	switch {
	case !s.Clamp.Until.IsZero():
		return s.Clamp.Reason
	case s.Sessions == 0 && s.Reason != "":
		return s.Reason
	}
	return s.Cause
}

// doing says in a word or two what a site does.
func (v *view) doing(s Site) string {
	switch held := v.held(s); {
	case held != "":
		return held
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
	Name     string
	Headline string
	Why      string
	Figures  []figure
	Spans    []spanLink
	Charts   []chart
	Changes  []changeRow
}

type changeRow struct{ At, What, Cause string }

func (h *Handler) site(v *view) (any, *problem) {
	name := v.query.Get("name")
	at := slices.IndexFunc(v.Sites, func(s Site) bool { return s.Name == name })
	changes, ok := v.changes(name)
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
	p.Figures = []figure{
		{"Backlog", number(s.Waiting), "ready to go"},
		{"Rate", amount(v.rates[name]) + "/s", "deliveries"},
		{"Sessions", number(s.Sessions), wants},
		{"Pace", pace, "queue " + shown(s.Queue)},
	}
	span, links := v.span(siteLink(name))
	p.Spans, p.Charts = links, v.siteCharts(name, span)
	for _, c := range slices.Backward(changes) {
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
