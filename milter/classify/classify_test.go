package classify

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// base is the configuration that Millrace ships with.
func base() config.Milter {
	return config.Milter{
		Scope: []string{"authenticated", "loopback"}, Remote: []string{"smtp", "esmtp"}, BuiltinRules: true,
		VetoHeaders:    []config.HeaderMatch{{Name: "X-Spam-Flag", Pattern: "YES*"}, {Name: "X-Spam-Status", Pattern: "/(?i)^yes/"}},
		BulkRecipients: 500, BulkWindow: 10 * time.Minute,
	}
}

func mustNew(t testing.TB, cfg config.Milter) *Classifier {
	t.Helper()
	c, err := New(cfg, NewVolume())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// remote is a recipient that Postfix would send to its own domain.
func remote(addr string, args ...string) Recipient {
	return Recipient{Address: addr, Args: args, Mailer: "smtp", Host: domainOf(addr)}
}

// fields reads "Name: value" lines as a client would write them.
func fields(lines ...string) []Field {
	var f []Field
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		f = append(f, Field{name, value})
	}
	return f
}

var listFields = fields("List-Id: Weekly <weekly.example.com>", "List-Unsubscribe: <https://example.com/u>", "Subject: news")

// newsletter is mail that is diverted as it stands.
func newsletter() *Message {
	return &Message{
		Sender: "bounce@news.example.com", AuthUser: "app", Client: netip.MustParseAddr("192.0.2.1"),
		Recipients: []Recipient{remote("ann@gmail.com"), remote("bob@example.net")},
		Header:     listFields,
	}
}

func TestNewsletterIsDiverted(t *testing.T) {
	t.Parallel()
	got := mustNew(t, base()).Decide(newsletter())
	want := Decision{
		Divert: []bool{true, true}, Stream: "weekly.example.com", Rule: "builtin", Reason: "List-Id, List-Unsubscribe",
		Formerly: "news.example.com", // the id is new
		Evidence: []Evidence{{Structure, "List-Id"}, {OptInHeaders, "List-Unsubscribe"}},
		Judged:   true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVetoesAndScopeKeepMailWithTheHost(t *testing.T) {
	t.Parallel()
	all := base()
	all.Rules = []config.Rule{{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}}}
	for name, c := range map[string]struct {
		change func(*Message)
		reason string
	}{
		"a stranger":           {func(m *Message) { m.AuthUser = "" }, "not in scope"},
		"null sender":          {func(m *Message) { m.Sender = "" }, "null sender"},
		"bare sender":          {func(m *Message) { m.Sender = "root" }, "sender without a domain"},
		"loop":                 {func(m *Message) { m.Looped = true }, "has been here before"},
		"XVERP":                {func(m *Message) { m.Args = []string{"SIZE=1", "XVERP"} }, "ESMTP argument XVERP"},
		"XVERP=":               {func(m *Message) { m.Args = []string{"xverp=+="} }, "ESMTP argument XVERP"},
		"REQUIRETLS":           {func(m *Message) { m.Args = []string{"REQUIRETLS"} }, "ESMTP argument REQUIRETLS"},
		"BINARYMIME":           {func(m *Message) { m.Args = []string{"BODY=BINARYMIME"} }, "ESMTP argument BODY=BINARYMIME"},
		"unknown RCPT":         {func(m *Message) { m.Recipients[1].Args = []string{"X\x1b=1"} }, "ESMTP argument X?"},
		"vacation":             {func(m *Message) { m.Header = fields("auto-submitted: Auto-Replied (vacation)") }, "Auto-Submitted: auto-replied"},
		"notified":             {func(m *Message) { m.Header = fields("Auto-Submitted:\n auto-notified; x=y") }, "Auto-Submitted: auto-notified"},
		"report":               {func(m *Message) { m.Header = fields("Content-Type: Multipart/Report; report-type=x") }, "multipart/report"},
		"spam":                 {func(m *Message) { m.Header = fields("X-Spam-Flag: YES") }, "veto_headers: x-spam-flag"},
		"spam status":          {func(m *Message) { m.Header = fields("X-Spam-Status: Yes, score=9") }, "veto_headers: x-spam-status"},
		"no recipients at all": {func(m *Message) { m.Recipients = nil }, "no remote recipient"},
	} {
		m := newsletter()
		c.change(m)
		if got := mustNew(t, all).Decide(m); got.Divert != nil || got.Reason != c.reason {
			t.Errorf("%s: %+v, want reason %q", name, got, c.reason)
		}
	}
	m := newsletter()
	m.Args = []string{"SIZE=1000", "BODY=8bitmime", "smtputf8", "RET=HDRS", "ENVID=x", "AUTH=<>"}
	m.Recipients = []Recipient{remote("a@b.example", "NOTIFY=NEVER", "ORCPT=rfc822;a@b.example")}
	m.Header = append(fields("Auto-Submitted: no", "X-Spam-Status: No, score=0"), listFields...)
	if got := mustNew(t, all).Decide(m); got.Divert == nil {
		t.Errorf("honoured arguments: %+v", got)
	}
}

func TestScopeNamesSubmitters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scope  string
		client string
		user   string
		daemon string
		cmd    bool
		want   bool
	}{
		{"authenticated", "192.0.2.1", "u", "", false, true},
		{"authenticated", "127.0.0.1", "", "", false, false},
		{"loopback", "127.0.0.9", "", "", false, true},
		{"loopback", "::1", "", "", false, true},
		{"loopback", "192.0.2.1", "u", "", false, false},
		{"loopback", "127.0.0.1", "", "", true, true},
		{"authenticated", "127.0.0.1", "", "", true, false},
		{"192.0.2.0/24", "192.0.2.77", "", "", false, true},
		{"192.0.2.0/24", "::ffff:192.0.2.77", "", "", false, true},
		{"192.0.2.7", "192.0.2.77", "", "", false, false},
		{"2001:db8::/32", "2001:db8::1", "", "", false, true},
		{"daemon:ORIGINATING", "192.0.2.1", "", "ORIGINATING", false, true},
		{"daemon:ORIGINATING", "192.0.2.1", "", "smtpd", false, false},
	} {
		s, err := newScope([]string{c.scope})
		if err != nil {
			t.Fatal(err)
		}
		m := &Message{Client: netip.MustParseAddr(c.client), AuthUser: c.user, Daemon: c.daemon, Command: c.cmd}
		if got := s.holds(m); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestOnlyPlainRemoteRecipientsAreDiverted(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Remote = append(cfg.Remote, "smtp:[relay.example]", "relay:other.example:587")
	cfg.HostDomains = []string{"home.example"}
	c := mustNew(t, cfg)
	for _, r := range []struct {
		addr, mailer, host string
		want               bool
	}{
		{"a@b.example", "smtp", "b.example", true},
		{"a@B.Example", "smtp", "b.example", true},
		{"a@b.example", "esmtp", "b.example", true},
		{"a@b.example", "esmtp", "b.example.", true}, // Sendmail, of a domain found in the DNS
		{"a@b.example", "esmtp", "relay.example.", false},
		{"a@b.example", "smtp", "[b.example]", false},
		{"a@b.example", "smtp", "b.example:25", false},
		{"a@b.example", "smtp", "relay.example", false},
		{"a@b.example", "smtp", "[relay.example]", true},
		{"a@b.example", "relay", "other.example:587", true},
		{"a@b.example", "relay", "b.example", false},
		{"a@b.example", "local", "b.example", false},
		{"a@b.example", "virtual", "b.example", false},
		{"a@b.example", "lmtp", "b.example", false},
		{"a@b.example", "error", "5.1.1 alias domain", false},
		{"a@b.example", "", "", false},
		{"a@b.example", "smtp", "", false},
		{"a@home.example", "smtp", "home.example", false},
		{"a", "smtp", "", false},
		{"a%c.example@b.example", "smtp", "c.example", false},
		{"@x.example:a@b.example", "smtp", "b.example", false},
		{`"a b"@b.example`, "smtp", "b.example", false},
		{`"a"@b.example`, "smtp", "b.example", false},
		{"a@[192.0.2.1]", "smtp", "[192.0.2.1]", false},
		{"a@localhost", "smtp", "localhost", false},
		{"a@b.example.", "smtp", "b.example.", false},
		{"@b.example", "smtp", "b.example", false},
		{"a@.", "smtp", ".", false},
		{"a@bücher.example", "smtp", "bücher.example", false},
	} {
		m := newsletter()
		m.Recipients = []Recipient{{Address: r.addr, Mailer: r.mailer, Host: r.host}, remote("ann@gmail.com")}
		got := c.Decide(m)
		if got.Divert[0] != r.want || !got.Divert[1] {
			t.Errorf("%s by %s to %s: %v", r.addr, r.mailer, r.host, got.Divert)
		}
	}
}

func TestCommandMailGoesWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	message := func(addrs ...string) *Message {
		m := newsletter()
		m.AuthUser, m.Client, m.Command = "", netip.MustParseAddr("127.0.0.1"), true
		m.Recipients = nil
		for _, a := range addrs {
			m.Recipients = append(m.Recipients, Recipient{Address: a})
		}
		return m
	}
	cfg := base()
	if got := mustNew(t, cfg).Decide(message("a@gmail.com")); got.Divert != nil {
		t.Errorf("diverted without host_domains: %+v", got)
	}
	cfg.HostDomains = []string{"home.example"}
	c := mustNew(t, cfg)
	if got := c.Decide(message("a@gmail.com", "b@example.net")); !reflect.DeepEqual(got.Divert, []bool{true, true}) {
		t.Errorf("all remote: %+v", got)
	}
	for _, addr := range []string{"b@Home.Example", "root", "b@localhost", `"b c"@example.net`} {
		if got := c.Decide(message("a@gmail.com", addr)); got.Divert != nil {
			t.Errorf("%s: %+v", addr, got)
		}
	}
	if got := c.Decide(message()); got.Divert != nil {
		t.Errorf("no recipient: %+v", got)
	}
}

func TestRuleConditions(t *testing.T) {
	t.Parallel()
	m := newsletter()
	m.Daemon, m.Args = "ORIGINATING", []string{"SIZE=5000"}
	m.Header = fields("Subject: Big\n sale", "X-Campaign: Spring 2026", "Received: one", "Received: two")
	for name, c := range map[string]struct {
		rule config.Rule
		want bool
	}{
		"sender":              {config.Rule{Sender: []string{"*@other.example", "*@News.example.com"}}, true},
		"sender not":          {config.Rule{Sender: []string{"*@example.com"}}, false},
		"glob":                {config.Rule{Header: []config.HeaderMatch{{Name: "subject", Pattern: "big*SALE"}}}, true},
		"glob whole":          {config.Rule{Header: []config.HeaderMatch{{Name: "Subject", Pattern: "sale"}}}, false},
		"regexp":              {config.Rule{Header: []config.HeaderMatch{{Name: "Subject", Pattern: "/(?i)SALE$/"}}}, true},
		"regexp case":         {config.Rule{Header: []config.HeaderMatch{{Name: "Subject", Pattern: "/SALE/"}}}, false},
		"any field":           {config.Rule{Header: []config.HeaderMatch{{Name: "received", Pattern: "two"}}}, true},
		"every header":        {config.Rule{Header: []config.HeaderMatch{{Name: "received", Pattern: "two"}, {Name: "Subject", Pattern: "x"}}}, false},
		"exists":              {config.Rule{HeaderExists: []string{"x-campaign"}}, true},
		"exists not":          {config.Rule{HeaderExists: []string{"x-campaign", "X-Other"}}, false},
		"client":              {config.Rule{Client: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, true},
		"client not":          {config.Rule{Client: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, false},
		"user":                {config.Rule{AuthUser: []string{"a?p"}}, true},
		"user not":            {config.Rule{AuthUser: []string{"ap"}}, false},
		"daemon":              {config.Rule{Daemon: []string{"x", "ORIGINATING"}}, true},
		"daemon not":          {config.Rule{Daemon: []string{"x"}}, false},
		"recipients":          {config.Rule{MinRecipients: 2}, true},
		"recipients not":      {config.Rule{MinRecipients: 3}, false},
		"every domain":        {config.Rule{RecipientDomain: []string{"gmail.com", "*.net"}}, true},
		"not every domain":    {config.Rule{RecipientDomain: []string{"gmail.com"}}, false},
		"size":                {config.Rule{MinSize: 5000}, true},
		"size not":            {config.Rule{MinSize: 5001}, false},
		"all of them":         {config.Rule{Sender: []string{"*"}, MinRecipients: 2, AuthUser: []string{"app"}}, true},
		"all but one of them": {config.Rule{Sender: []string{"*"}, MinRecipients: 3, AuthUser: []string{"app"}}, false},
	} {
		cfg := base()
		c.rule.Name, c.rule.Action = name, config.ActionDivert
		cfg.Rules = []config.Rule{c.rule}
		if got := mustNew(t, cfg).Decide(m); (got.Divert != nil) != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// auto-generated is what a forum says of its digests: doubt, that a rule settles.
func TestARuleMayDivertWhatAProgramGenerated(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Rules = []config.Rule{{Name: "forum", Action: config.ActionDivert, Sender: []string{"forum@*"}}}
	m := newsletter()
	m.Sender, m.Header = "forum@talk.example.com", fields("Auto-Submitted: auto-generated")
	if got := mustNew(t, cfg).Decide(m); got.Divert == nil || got.Rule != "forum" {
		t.Errorf("%+v", got)
	}
}

func TestVetoHeadersComeBeforeRules(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.VetoHeaders = []config.HeaderMatch{{Name: "X-Verdict", Pattern: "*virus*"}, {Name: "X-Score", Pattern: "/^[5-9]/"}}
	cfg.Rules = []config.Rule{{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}}}
	c := mustNew(t, cfg)
	for field, reason := range map[string]string{
		"x-verdict: a VIRUS, or two": "veto_headers: x-verdict",
		"X-Score:  7.5":              "veto_headers: x-score",
		"X-Score: 4.9":               "rule says divert",
		"X-Spam-Flag: YES":           "rule says divert", // the admin's list stands for itself
	} {
		m := newsletter()
		m.Header = append(fields("X-Score: 0", field), listFields...)
		if got := c.Decide(m); got.Reason != reason {
			t.Errorf("%s: %+v, want reason %q", field, got, reason)
		}
	}
}

func TestFirstRuleThatMatchesDecides(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Rules = []config.Rule{
		{Name: "not this", Action: config.ActionDivert, Sender: []string{"nobody@*"}},
		{Name: "receipts", Action: config.ActionLeave, HeaderExists: []string{"X-Receipt"}},
		{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}, Stream: "s-{header:X-Run}"},
	}
	c := mustNew(t, cfg)
	m := newsletter()
	m.Header = append(fields("X-Receipt: 1"), listFields...)
	if got := c.Decide(m); got.Divert != nil || got.Rule != "receipts" {
		t.Errorf("leave first: %+v", got)
	}
	m.Header = fields("X-Run: spring 26")
	if got := c.Decide(m); got.Divert == nil || got.Rule != "all" || got.Stream != "s-spring_26" {
		t.Errorf("divert: %+v", got)
	}
	cfg.Rules, cfg.BuiltinRules = nil, false
	if got := mustNew(t, cfg).Decide(newsletter()); got.Divert != nil {
		t.Errorf("built-in rules are off: %+v", got)
	}
}

// A rule makes listmonk's campaign the stream, letter by letter: webhooks tell it to listmonk as the
// campaign that an address bounced in.
func TestCampaignOfListmonkIsTheStream(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Rules = []config.Rule{{Name: "listmonk", Action: config.ActionDivert, HeaderExists: []string{"X-Listmonk-Campaign"}, Stream: "{header:X-Listmonk-Campaign}"}}
	c := mustNew(t, cfg)
	for _, campaign := range []string{"9f86b50d-5711-41c8-ab03-bc91c43d711b", "9F86B50D-5711-41C8-AB03-BC91C43D711B"} {
		m := newsletter()
		m.Header = append(fields("X-Listmonk-Campaign: "+campaign, "X-Listmonk-Subscriber: 0f86b50d-5711-41c8-ab03-bc91c43d711c"), listFields...)
		for range 300 { // as many as a campaign has, which no learning of ids may change
			if got := c.Decide(m); got.Divert == nil || got.Rule != "listmonk" || got.Stream != campaign || got.Formerly != "" {
				t.Fatalf("%+v", got)
			}
		}
	}
}

func TestUnknownSizeLeaves(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Rules = []config.Rule{{Name: "big", Action: config.ActionLeave, MinSize: 1 << 20}}
	if got := mustNew(t, cfg).Decide(newsletter()); got.Divert != nil {
		t.Errorf("leave: %+v", got)
	}
	cfg.BuiltinRules = false
	cfg.Rules[0].Action = config.ActionDivert
	if got := mustNew(t, cfg).Decide(newsletter()); got.Divert != nil {
		t.Errorf("divert: %+v", got)
	}
}

func TestEvidence(t *testing.T) {
	t.Parallel()
	c := mustNew(t, base())
	for name, x := range map[string]struct {
		sender string
		header []Field
		bulk   bool
		stream string
	}{
		"plain mail":          {"", fields("Subject: hello"), false, ""},
		"one sign":            {"", fields("List-Unsubscribe: <x>", "List-Unsubscribe-Post: List-Unsubscribe=One-Click"), false, ""},
		"precedence only":     {"", fields("Precedence: bulk"), false, ""},
		"autoresponder":       {"", fields("Precedence: junk", "Feedback-ID: x"), false, ""},
		"asked":               {"", fields("X-Millrace: divert"), true, "news.example.com"},
		"asked to leave":      {"", append(fields("X-Millrace: Leave"), listFields...), false, ""},
		"ESP":                 {"", fields("Feedback-ID: 42:cust:camp:ESP", "List-Unsubscribe: <x>", "List-Unsubscribe-Post: x", "Precedence: bulk"), false, ""},
		"two Precedences":     {"", fields("Precedence: bulk", "Precedence: list"), false, ""},
		"CSA":                 {"", fields("X-CSA-Complaints: a@b", "List-Unsubscribe: <x>"), false, ""},
		"Mailman":             {"l-bounces+a=b@x.org", fields("Precedence: list", "X-BeenThere: l@x.org", "X-Mailman-Version: 2.1.39", "List-Id: L <l.x.org>"), true, "l.x.org"},
		"Mailman notice":      {"l-bounces@x.org", fields("Precedence: bulk", "X-BeenThere: l@x.org", "X-Mailman-Version: 2.1.39", "List-Id: <l.x.org>", "X-List-Administrivia: yes"), false, ""},
		"Mailman 3 confirm":   {"l-confirm+abc123@x.org", fields("Precedence: bulk", "List-Id: <l.x.org>"), false, ""},
		"listmonk":            {"", fields("X-Listmonk-Campaign: u-1", "List-Unsubscribe: <x>"), true, "news.example.com"},
		"phpList":             {"", fields("X-MessageID: 7", "X-ListMember: a@b", "Precedence: bulk"), true, "news.example.com"},
		"Mautic":              {"", fields("X-EMAIL-ID: 3", "Precedence: Bulk", "List-Unsubscribe: <x>"), true, "news.example.com"},
		"Sympa":               {"", fields("X-Loop: l@x", "X-Sequence: 3", "Precedence: list", "List-Id: <l.x>"), true, "l.x"},
		"receipt":             {"", append(fields("X-PM-Message-Stream: outbound"), listFields...), false, ""},
		"urgent":              {"", append(fields("X-Priority: 1 (Highest)"), listFields...), false, ""},
		"generated":           {"", append(fields("Auto-Submitted: auto-generated"), listFields...), false, ""},
		"invitation":          {"", fields("Content-Type: text/calendar; method=REQUEST", "List-Unsubscribe: <x>", "Feedback-ID: x"), false, ""},
		"reply with feedback": {"", fields("In-Reply-To: <x@y>", "List-Unsubscribe: <x>", "Feedback-ID: x"), false, ""},
		"folded odd case":     {"", fields("LIST-ID:\r\n\tWeekly\r\n <Weekly.Example.com>", "list-unsubscribe: <x>"), true, "weekly.example.com"},
	} {
		m := newsletter()
		if x.sender != "" {
			m.Sender = x.sender
		}
		m.Header = x.header
		got := c.Decide(m)
		if (got.Divert != nil) != x.bulk || x.bulk && got.Stream != x.stream {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestStreamTemplates(t *testing.T) {
	t.Parallel()
	c := mustNew(t, base())
	m := newsletter()
	c.stream(nil, m, index(listFields), 1) // its id is known
	h := index(append(fields("Feedback-ID: f:1", "X-Odd:  a\n\tb\x01\"c"), listFields...))
	for in, want := range map[string]string{
		"":                                "weekly.example.com",
		"fixed":                           "fixed",
		"{list_id}":                       "weekly.example.com",
		"{feedback_id}":                   "f:1",
		"{sender_domain}/{header:x-odd}":  "news.example.com/a_b__c",
		"{header:None}":                   "weekly.example.com",
		"run-{header:None}":               "weekly.example.com",
		"{header:None}{list_id}":          "weekly.example.com",
		"x{header:None}-{sender_domain}y": "x-news.example.comy",
	} {
		tpl, err := parseTemplate(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, formerly := c.stream(tpl, m, h, 1); got != want || formerly != "" {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got, _ := c.stream(nil, &Message{Sender: "a@\x00"}, headers{}, 1); got != "_" {
		t.Errorf("hostile domain: %q", got)
	}
	long := strings.Repeat("ä", 1000)
	h = index(fields("List-Id: <"+long+">", "Feedback-ID: "+long, "X: "+long))
	for _, in := range []string{"", "{list_id}", "a{feedback_id}", "{header:X}{header:X}{header:X}"} {
		tpl, err := parseTemplate(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := c.stream(tpl, m, h, 1); len(got) != maxStream || strings.Trim(got, "a_") != "" {
			t.Errorf("%q over long values: %d octets, %q", in, len(got), got)
		}
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	rule := func(r config.Rule) func(*config.Milter) {
		return func(m *config.Milter) { r.Name = "the-rule"; m.Rules = []config.Rule{r} }
	}
	any := []string{"*"}
	for name, c := range map[string]struct {
		change func(*config.Milter)
		says   string
	}{
		"veto header": {func(m *config.Milter) { m.VetoHeaders = []config.HeaderMatch{{Name: "X-Mark", Pattern: "/[/"}} }, "veto_headers: X-Mark"},
		"scope":       {func(m *config.Milter) { m.Scope = []string{"everyone"} }, `"everyone"`},
		"remote":      {func(m *config.Milter) { m.Remote = []string{":x"} }, `":x"`},
		"regexp":      {rule(config.Rule{Action: "divert", Header: []config.HeaderMatch{{Name: "X", Pattern: "/(/"}}}), "the-rule"},
		"placeholder": {rule(config.Rule{Action: "divert", Sender: any, Stream: "{listid}"}), "{listid}"},
		"brace":       {rule(config.Rule{Action: "divert", Sender: any, Stream: "x{list_id"}), "closing brace"},
		"action":      {rule(config.Rule{Action: "drop", Sender: any}), `"drop"`},
		"condition":   {rule(config.Rule{Action: "divert"}), "condition"},
	} {
		cfg := base()
		c.change(&cfg)
		if _, err := New(cfg, NewVolume()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		glob, s string
		want    bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abcd", false},
		{"*a*b*", "xaxxbx", true}, {"?", "a", true}, {"?", "", false}, {"**a", "a", true}, {"*@x", "a@x@x", true}, {"a[b]", "ab", false},
	} {
		if got := glob(c.glob).match(c.s); got != c.want {
			t.Errorf("%q %q: %v", c.glob, c.s, got)
		}
	}
	if glob(strings.Repeat("*a", 50)).match(strings.Repeat("a", 20000) + "b") {
		t.Error("a hostile value matched")
	}
}
