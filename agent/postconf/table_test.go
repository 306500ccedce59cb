package postconf

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// host is a Postfix with main.cf as name, value pairs and files of a host.
func host(files fstest.MapFS, main ...string) *Postfix {
	p := &Postfix{main: map[string]string{"default_database_type": "hash"}, files: files}
	for i := 0; i < len(main); i += 2 {
		p.main[main[i]] = main[i+1]
	}
	return p
}

func file(text string, age time.Duration) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(text), ModTime: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).Add(-age), Mode: 0o644}
}

func tables() fstest.MapFS {
	return fstest.MapFS{
		"t/plain":     file("# comment\n\nann@a.example  HOLD spam\n  and more\n\n   # another\nbob@a.example\tOK\n", 0),
		"t/mailname":  file("Lab.test\n", 0),
		"t/comments":  file("# nothing\n\n", 0),
		"t/built":     file("a REJECT hold the line, see http://a.example\n", time.Hour),
		"t/built.db":  file("", 0),
		"t/stale":     file("a REJECT\n", 0),
		"t/stale.db":  file("", time.Hour),
		"t/source":    file("a REJECT\n", 0),
		"t/lmdb":      file("a REJECT\n", time.Hour),
		"t/lmdb.lmdb": file("", 0),
		"t/dbm":       file("a REJECT\n", time.Hour),
		"t/dbm.pag":   file("", 0),
		"t/keyonly":   file("a\n", 0),
		"t/huge":      file(strings.Repeat("#", maxTable+1), 0),
		"t/pcre": file("if /^Subject:/\n/^Subject: a\\/b/ix  WARN hold on\n!~^X-Spam:~ redirect a@b.example\nendif\n"+
			"/^X-Big: (.*)/\n   FILTER smtp:[127.0.0.1]:10025\n", 0),
		"t/harmless": file("/^X-Hold: HOLD/ IGNORE\n/^Received:/ PREPEND X-Y: FILTER\n", 0),
		"t/made":     file("/^X-Action: (.*)/ $1\n", 0),
		"t/open":     file("/^X-Action: (.*) HOLD\n", 0),
		"t/cidr":     file("192.0.2.0/24 BCC a@b.example\n!198.51.100.0/24 OK\n", 0),
		"t/self":     file("a check_sender_access texthash:/t/self\n", 0),
		"t/refer":    file("a special, reject\nb check_sender_access texthash:/t/plain\nc 450 4.7.1 check_sender_access texthash:/t/cidr\n", 0),
	}
}

func TestTablesAreLookedInto(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ table, actions, unknown string }{
		{"texthash:/t/plain", "HOLD", ""},
		{"proxy:texthash:/t/plain", "HOLD", ""},
		{"texthash:/t/comments", "", ""},
		{"texthash:/t/none", "", "not exist"},
		{"texthash:/t", "", "not a file"},
		{"texthash:t/plain", "", "not an absolute path"},
		{"texthash:/t/huge", "", "too large"},
		{"texthash:/t/keyonly", "", `"a" is not understood`},
		{"hash:/t/built", "", ""},
		{"/t/built", "", ""}, // of default_database_type
		{"hash:/t/stale", "", "stale.db is older than its text"},
		{"hash:/t/source", "", "source.db: "},
		{"lmdb:/t/lmdb", "", ""},
		{"cdb:/t/lmdb", "", "lmdb.cdb: "},
		{"dbm:/t/dbm", "", ""},
		{"pcre:/t/pcre", "REDIRECT FILTER", ""},
		{"regexp:/t/harmless", "", ""},
		{"regexp:/t/made", "", "made of what matched"},
		{"regexp:/t/open", "", "not understood"},
		{"pcre:{{/x y/ DUNNO}, {/z/ HOLD}}", "HOLD", ""},
		{"cidr:/t/cidr", "BCC", ""},
		{"cidr:{{192.0.2.1 HOLD}}", "HOLD", ""},
		{"inline:{a=OK, { b = hold x }}", "HOLD", ""},
		{"inline:{a=OK, b}", "", "not understood"},
		{"static:OK", "", ""},
		{"static:{ HOLD for review }", "HOLD", ""},
		{"mysql:/etc/postfix/x", "", "mysql tables are not looked into"},
	} {
		var found checks
		host(tables()).lookInto(c.table, false, &found)
		var actions []string
		for _, a := range found.actions {
			action, at, _ := strings.Cut(a, " in ")
			if actions = append(actions, action); at != c.table {
				t.Errorf("%s: %q", c.table, a)
			}
		}
		if got := strings.Join(actions, " "); got != c.actions {
			t.Errorf("%s has actions %q, want %q", c.table, got, c.actions)
		}
		if got := strings.Join(found.unknown, "; "); !strings.Contains(got, c.unknown) || c.unknown == "" && got != "" {
			t.Errorf("%s: %q is not known, want %q", c.table, got, c.unknown)
		}
	}
}

// TestRestrictionsAreFollowed: into classes, results that are restrictions, and
// no further than mail that may be diverted goes.
func TestRestrictionsAreFollowed(t *testing.T) {
	t.Parallel()
	const hold = "HOLD in texthash:/t/plain"
	for _, c := range []struct{ restrictions, found string }{
		{"", ""},
		{"permit_mynetworks, reject_unauth_destination", ""},
		{"check_client_access cidr:/t/cidr", "BCC in cidr:/t/cidr"},
		{"warn_if_reject check_sender_a_access { texthash:/t/plain, x=y }, permit", hold},
		{"texthash:/t/plain", hold},
		{"special", hold},
		{"circle", ""},
		{"check_sender_access texthash:/t/refer", hold},
		{"check_recipient_access static:reject", ""},
		{"check_policy_service unix:private/policy", "asks unix:private/policy"},
		{"check_policy_service { inet:127.0.0.1:1, timeout=1s } texthash:/t/plain", hold + " asks inet:127.0.0.1:1"},
		{"reject_rbl_client zen.example=127.0.0.[2..11]", ""},
		{"permit, special", ""},
		{"permit_mynetworks, special", hold},
		{"permit_mynetworks, permit_sasl_authenticated, special", ""},
	} {
		p := host(tables(), "smtpd_restriction_classes", "special circle",
			"special", "check_sender_access texthash:/t/plain", "circle", "circle check_sender_access texthash:/t/self circle",
			"mynetworks", "127.0.0.0/8 [::1]/128")
		cfg := &config.Config{Milter: config.Milter{Scope: []string{"authenticated", "loopback"}}}
		var found checks
		p.restrictions(tokens(c.restrictions), p.exempt(cfg, nil), &found)
		got := slices.Concat(found.actions, found.unknown)
		for _, s := range found.policy {
			got = append(got, "asks "+s)
		}
		if got := strings.Join(got, " "); got != c.found {
			t.Errorf("%s: found %q, want %q", c.restrictions, got, c.found)
		}
	}
}

func TestExemptNeedsAScopeThatIsPermitted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scope, networks, protocols string
		want                       int
	}{
		{"authenticated loopback", "127.0.0.0/8 [::1]/128", "all", 2},
		{"authenticated loopback", "127.0.0.0/8", "ipv4", 2},
		{"authenticated loopback", "127.0.0.0/8", "all", 0},
		{"loopback", "192.0.2.0/24", "ipv4", 0},
		{"authenticated", "", "all", 1},
		{"authenticated 192.0.2.0/24", "127.0.0.0/8 192.0.2.0/24", "ipv4", 0},
		{"daemon:ORIGINATING", "127.0.0.0/8", "ipv4", 0},
	} {
		p := host(nil, "mynetworks", c.networks, "inet_protocols", c.protocols)
		cfg := &config.Config{Milter: config.Milter{Scope: strings.Fields(c.scope)}}
		if got := p.exempt(cfg, nil); len(got) != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// TestAliasesOfOwnDomainsConcernNobody: what is never diverted is not bypassed.
func TestAliasesOfOwnDomainsConcernNobody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		maps, transport string
		hostDomains     []string
		command, want   bool
	}{
		{"inline:{}", "", nil, false, true},
		{"texthash:/t/comments", "", nil, false, true},
		{"inline:{ann@lab.test=x, postmaster=y, @LAB.test=z}", "", nil, false, true},
		{"inline:{ann@lab.test=x, ann@far.test=y}", "", nil, false, false},
		{"inline:{ann@lab.test=x}", "hash:/t/transport", nil, false, false},
		{"inline:{ann@lab.test=x}", "hash:/t/transport", []string{"lab.test"}, false, true},
		{"inline:{ann@lab.test=x}", "", nil, true, false},
		{"inline:{ann@a.lab.test=x, postmaster=y}", "", []string{"lab.test", "*.lab.test"}, true, true},
		{"inline:{alias.test=x}", "", nil, false, true}, // Postfix tells that it is one
		{"inline:{alias.test=x}", "", []string{"lab.test"}, true, false},
		{"inline:{alias.test=x}", "", []string{"lab.test", "alias.test"}, true, true},
		{"static:x", "", []string{"lab.test"}, false, false},
		{"ldap:x", "", []string{"lab.test"}, false, false},
	} {
		p := host(tables(), "mydestination", "lab.test, localhost", "myorigin", "/t/mailname", "transport_maps", c.transport)
		cfg := &config.Config{Milter: config.Milter{Remote: []string{"smtp", "esmtp"}, HostDomains: c.hostDomains}}
		if got := p.nothingIn(cfg, milters{command: c.command}, c.maps, true); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
