package web

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/contrib/lab"
)

// TestPagesInARealBrowser looks at every page in Chromium as a person with and
// one without eyes or a mouse would.
func TestPagesInARealBrowser(t *testing.T) {
	t.Parallel()
	now := time.Now()
	full, web := serve(t, busy(now), past(now))
	empty, _ := serve(t, quiet(), history.New(now))
	c := startChromium(t)
	for _, width := range []int{360, 1280} {
		for _, theme := range []string{"light", "dark"} {
			c.look(width, theme)
			for _, p := range []struct {
				name string
				on   *httptest.Server
				path string
			}{
				{"overview", full, "/"}, {"site", full, siteLink("google")}, {"hostile", full, siteLink(hostile)},
				{"failures", full, web.Link()}, {"empty", empty, "/"},
			} {
				t.Run(fmt.Sprintf("%s %d %s", p.name, width, theme), func(t *testing.T) {
					c.t = t
					c.open(p.on.URL + p.path)
					if p.name == "overview" {
						c.script(`for (const d of document.querySelectorAll("#chart-rate details")) d.open = true`, nil)
					}
					c.checkTree()
					c.checkLayout()
					c.checkContrast()
					c.checkKeyboard()
					c.shoot(fmt.Sprintf("%s-%d-%s", p.name, width, theme))
					for _, complaint := range c.complaints() {
						t.Errorf("console: %s", complaint)
					}
				})
			}
			c.t = t
			// The next round gets a link of its own.
			c.call("Network.clearBrowserCookies", nil, nil)
		}
	}
}

// TestRefusalIsAPageToo looks at what says that something cannot be shown.
func TestRefusalIsAPageToo(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, quiet(), past(time.Now()))
	c := startChromium(t)
	c.open(s.URL + "/failures")
	c.checkTree()
	c.checkContrast()
	c.checkKeyboard()
}

// checkTree looks at what a screen reader is told: everything that can be used
// or is a picture has a name, there are landmarks, headings step down one by one.
func (c *chromium) checkTree() {
	c.t.Helper()
	named := map[string]bool{
		"link": true, "button": true, "image": true, "img": true, "progressbar": true, "ProgressIndicator": true,
		"navigation": true, "region": true, "DisclosureTriangle": true, "heading": true, "columnheader": true, "rowheader": true,
	}
	landmarks := map[string]int{"main": 0, "banner": 0, "contentinfo": 0, "navigation": 0}
	level, ones := 0, 0
	for _, n := range c.tree() {
		role := fmt.Sprint(n.Role.Value)
		if n.Ignored {
			continue
		}
		name, _ := n.Name.Value.(string)
		if named[role] && strings.TrimSpace(name) == "" {
			c.t.Errorf("a %s has no name", role)
		}
		if _, ok := landmarks[role]; ok {
			landmarks[role]++
		}
		if role != "heading" {
			continue
		}
		for _, p := range n.Properties {
			if p.Name == "level" {
				l := int(p.Value.Value.(float64))
				if l > level+1 {
					c.t.Errorf("heading %q of level %d follows one of level %d", name, l, level)
				}
				if level = l; l == 1 {
					ones++
				}
			}
		}
	}
	if ones != 1 {
		c.t.Errorf("%d headings of level 1", ones)
	}
	for role, n := range landmarks {
		if n == 0 || n > 1 && role != "navigation" {
			c.t.Errorf("%d landmarks %s", n, role)
		}
	}
	var lang string
	if c.script(`document.documentElement.lang`, &lang); lang != "en" {
		c.t.Errorf("the language is %q", lang)
	}
}

// checkLayout: nothing but what says so is wider than the window, and no ids
// are there twice.
func (c *chromium) checkLayout() {
	c.t.Helper()
	var r struct {
		Wide []string
		Ids  []string
	}
	c.script(`(() => {
		const wide = [];
		if (document.documentElement.scrollWidth > innerWidth) {
			wide.push("all is " + document.documentElement.scrollWidth);
			for (const e of document.body.querySelectorAll("*"))
				if (e.getBoundingClientRect().right > innerWidth + 1) wide.push(e.tagName + "." + e.className);
		}
		const ids = Array.from(document.querySelectorAll("[id]"), e => e.id);
		return {wide, ids: ids.filter((id, i) => ids.indexOf(id) !== i)};
	})()`, &r)
	if len(r.Wide)+len(r.Ids) > 0 {
		c.t.Errorf("wider than the window: %q; ids used twice: %q", r.Wide, r.Ids)
	}
}

// ratio is WCAG's contrast of two colours, as a JavaScript function; ground is
// what stands behind an element.
const ratio = `
	const parse = s => { const m = s.match(/[\d.]+/g).map(Number); return {r: m[0], g: m[1], b: m[2], a: m.length > 3 ? m[3] : 1}; };
	const light = c => [c.r, c.g, c.b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)]; return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
	const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c; } throw "no background"; };
`

// checkContrast: text against what is behind it at least 4.5 (WCAG 1.4.3), lines
// of charts at least 3 (1.4.11).
func (c *chromium) checkContrast() {
	c.t.Helper()
	var r struct {
		Texts int
		Poor  []string
	}
	c.script(`(() => {`+ratio+`
		const poor = []; let texts = 0;
		const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
		while (walk.nextNode()) {
			const e = walk.currentNode.parentElement;
			if (!walk.currentNode.data.trim() || !e.checkVisibility()) continue;
			texts++;
			const x = ratio(parse(getComputedStyle(e).color), ground(e));
			if (x < 4.5) poor.push(x.toFixed(2) + " " + walk.currentNode.data.trim().slice(0, 40));
		}
		for (const e of document.querySelectorAll(".line")) {
			const x = ratio(parse(getComputedStyle(e).stroke), ground(e));
			if (x < 3) poor.push(x.toFixed(2) + " line " + e.getAttribute("class"));
		}
		return {texts, poor};
	})()`, &r)
	if r.Texts < 5 || len(r.Poor) > 0 {
		c.t.Errorf("of %d texts too weak: %q", r.Texts, r.Poor)
	}
}

// checkKeyboard: Tab reaches all that can be used, and shows where it is.
func (c *chromium) checkKeyboard() {
	c.t.Helper()
	var all []string
	// By name, for an update may put another element in the place of one, with other numbers
	// in it.
	c.script(`(() => {
		window.nameOf = e => e.closest("[id]")?.id + " " + e.tagName + " " + (e.getAttribute("href") || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim());
		document.activeElement.blur();
		getSelection().removeAllRanges();
		return Array.from(document.querySelectorAll("a[href], button, summary, input, [tabindex='0']")).filter(e => e.checkVisibility({visibilityProperty: true})).map(nameOf);
	})()`, &all)
	seen := make(map[string]bool)
	for range len(all) + 1 {
		c.key("Tab", 9)
		var at struct {
			Name    string
			Visible bool
		}
		c.script(`(() => {`+ratio+`
			const e = document.activeElement, s = getComputedStyle(e);
			if (e === document.body) return {name: ""};
			return {name: nameOf(e), visible: e.matches(":focus-visible") && s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2
				&& ratio(parse(s.outlineColor), ground(e.parentElement)) >= 3};
		})()`, &at)
		if at.Name == "" {
			continue // the document itself, between the last and the first
		}
		if seen[at.Name] = true; !at.Visible {
			c.t.Errorf("the focus cannot be seen on %s", at.Name)
		}
	}
	for _, what := range all {
		if !seen[what] {
			c.t.Errorf("Tab does not reach %s", what)
		}
	}
}

// TestNumbersRenewThemselves sees the page change without being loaded again, and
// what is in use stay as it is.
func TestNumbersRenewThemselves(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := &changing{fixed: busy(now)}
	s, _ := serve(t, b, past(now))
	c := startChromium(t)
	c.open(s.URL + "/")
	c.script(`document.querySelector("#chart-rate details").open = true; document.querySelector("#sites a").focus(); window.mark = 1`, nil)
	b.change(func(s *Snapshot) { s.Waiting = 777; s.Sites[0].Waiting = 123_456 })
	c.until(`document.getElementById("figures").textContent.includes("3,961")`) // 777 + 64 + 3,120
	var r struct{ Mark, Open, Old bool }
	c.script(`({mark: window.mark === 1, open: document.querySelector("#chart-rate details").open, old: !document.getElementById("sites").textContent.includes("123,456")})`, &r)
	if !r.Mark || !r.Open || !r.Old {
		t.Errorf("not loaded again: %v, the table stays open: %v, the part with the focus stays: %v", r.Mark, r.Open, r.Old)
	}
	c.script(`document.activeElement.blur()`, nil)
	c.until(`document.getElementById("sites").textContent.includes("123,456")`)
	c.script(`document.getElementById("pause").click()`, nil)
	var pressed string
	if c.script(`document.getElementById("pause").getAttribute("aria-pressed")`, &pressed); pressed != "true" {
		t.Error("updates cannot be paused")
	}
	for _, complaint := range c.complaints() {
		t.Errorf("console: %s", complaint)
	}
}

// TestPageNeedsNoScript sees all numbers with JavaScript switched off.
func TestPageNeedsNoScript(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s, _ := serve(t, busy(now), past(now))
	c := startChromium(t)
	c.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	c.open(s.URL + "/")
	var doc struct{ Root struct{ NodeID int } }
	c.call("DOM.getDocument", nil, &doc)
	var html struct{ OuterHTML string }
	c.call("DOM.getOuterHTML", map[string]any{"nodeId": doc.Root.NodeID}, &html)
	if !inOrder(html.OuterHTML, "22,084", "suspended until", "9,100", "Weekly", "userunknown") || !strings.Contains(html.OuterHTML, `aria-pressed="false" hidden`) {
		t.Errorf("without a script the page is:\n%s", html.OuterHTML)
	}
}

// until waits for something to become true in the page.
func (c *chromium) until(what string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	if err := lab.Until(ctx, func() (ok bool, err error) { c.script(what, &ok); return ok, nil }); err != nil {
		c.t.Fatalf("never: %s", what)
	}
}
