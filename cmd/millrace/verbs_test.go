package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// found is what millrace find prints of messages().
const found = `----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------
M1-1F00!               800 Tue Nov 14 22:14:22 sale@example.com
                                                                 (wrong price)
                                               g@example.com

-- 0 Kbytes in 1 Request.
`

const whyGoogle = `google: hosts mx1.google.example; addresses 192.0.2.1, 2001:db8::1; domains such as gmail.com
2023-11-14 22:13:20    0 -> 2    start
2023-11-14 22:14:20   20 -> 11  at most 12.5/s  refused with 11 up: 421 too many
held back  refused: takes 8 sessions, 20 are allowed; 421 too many
waiting    1,100 recipients
slots      8 held of 8 wanted: 7 up, 0 connecting, 0 just ended; 1 left to the host
limit      8, of each address; 20 sessions allowed: the configuration (bounded)
lag        a slot is free 0.4 s after its session ended
pace       at most 50 messages/s
refused    421 too many
breaker    streams are held above 5% hard bounces
 HELD LIMIT    PACE  ADDRESS
    8     8       -  192.0.2.25:25  421 too many
    0     -  2.00/s  [2001:db8::25]:25  no answer yet
    0     -       -  192.0.2.26:25  down since 2023-11-14 22:13:20, called now: answered 554; go away
    0     -       -  192.0.2.27:25  down, called next: refused the connection
paused: site google until 2023-11-14 23:13:20: too fast (ann (uid 1000), 2023-11-14 22:13:20)
limited: general: at most 5 sessions and 0.5/s until 2023-11-14 23:13:20 (root (uid 0))
`

func TestVerbs(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for _, x := range []struct {
		args   []string
		code   int
		stdout string // all of it
		stderr string // a part
	}{
		{args: []string{"streams"}, stdout: `   WAITING   DEFERRED   ACTIVE     HELD PRIORITY  STREAM
      1200         30       20        3        4  news.example.com
         7          0        0        0        1  sale.example.com  (paused: wrong price)
`},
		{args: []string{"streams", "--json"}, stdout: `{"name":"news.example.com","waiting":1200,"deferred":30,"active":20,"held":3,"priority":4}
{"name":"sale.example.com","waiting":7,"deferred":0,"active":0,"paused":"wrong price"}
`},
		{args: []string{"priority", "news.example.com", "4"}},
		{args: []string{"pause", "news", "--queue", "general", "--reason", "why", "--for", "2h"}},
		{args: []string{"pause", "--site", "both.example"},
			stdout: "for all source addresses: google, gone, google\nthe whole site is paused, for 19 other domains too; millrace pause --domain both.example is for that one alone\n"},
		{args: []string{"set", "both.example", "--sessions", "5", "--rate", "600/m"}, stdout: "for all source addresses: google, gone, google\n"},
		{args: []string{"pause", "other"}, code: 1, stderr: "brake"},
		{args: []string{"pause"}, code: 64, stderr: "say which mail"},
		{args: []string{"resume"}, code: 64, stderr: "say which mail"},
		{args: []string{"flush"}, code: 64, stderr: "say which mail"},
		{args: []string{"history"}, code: 64, stderr: "name an address"},
		{args: []string{"history", "a@example.com", "--since", "then"}, code: 64, stderr: "--since: "},
		{args: []string{"top", "--every", "0"}, code: 64, stderr: "--every: "},
		{args: []string{"reply"}, code: 64, stderr: "give a reply"},
		{args: []string{"move"}, code: 64, stderr: "say one of"},
		{args: []string{"drain", "--end", "--wait"}, code: 64, stderr: "contradict"},
		{args: []string{"pause", "--all", "--site", "google"}, code: 64, stderr: "--all is all mail"},
		{args: []string{"resume", "--all", "news"}, code: 64, stderr: "--all is all mail"},
		{args: []string{"set", "google", "--forget", "--for", "3h"}, code: 64, stderr: "--for is how long"},
		{args: []string{"set", "google", "--reset", "--for", "3h"}, code: 64, stderr: "--for is how long"},
		{args: []string{"pause", "--all", "--for", "soon"}, code: 64, stderr: "not a length of time"},
		{args: []string{"resume", "--user", "joe"}, stdout: "still paused: site google until 2023-11-14 23:13:20: too fast (ann (uid 1000), 2023-11-14 22:13:20)\n"},
		{args: []string{"resume", "news"}, code: 1, stderr: "no brake is on for stream news: not known"},
		{args: []string{"brakes"}, stdout: `paused: site google until 2023-11-14 23:13:20: too fast (ann (uid 1000), 2023-11-14 22:13:20)
limited: general: at most 5 sessions and 0.5/s until 2023-11-14 23:13:20 (root (uid 0))
resumed: stream old list, queue yahoo, which the breaker leaves alone until 2023-11-15 22:13:20
`},
		{args: []string{"set", "google", "--sessions", "5", "--rate", "600/m"}},
		{args: []string{"set", "google", "--sessions", "5", "--rate", "fast"}, code: 64, stderr: "not a rate"},
		{args: []string{"set", "google"}, code: 64, stderr: "or else --reset"},
		{args: []string{"set", "google", "--reset", "--sessions", "5"}, code: 64, stderr: "--reset ends the limits of a site or queue: leave out"},
		{args: []string{"set", "google", "--reset", "--forget"}, code: 64, stderr: "--forget has no limit to set or to end: leave out"},
		{args: []string{"set", "google", "--forget", "--sessions", "5"}, code: 64, stderr: "--forget has no limit to set or to end: leave out"},
		{args: []string{"set", "google", "--sessions", "0"}, code: 64, stderr: "--sessions: \"0\" is not a number of sessions from 1 on; remedy: millrace pause"},
		{args: []string{"set", "google", "--sessions", "many"}, code: 64, stderr: "\"many\" is not a number"},
		{args: []string{"set", "--sessions", "5"}, code: 64, stderr: "name a site or a queue"},
		{args: []string{"set", "--all"}, code: 64, stderr: "name a site or a queue"},
		{args: []string{"set", "--forget"}, code: 64, stderr: "or say --forget --all"},
		{args: []string{"set", "google", "--forget", "--all"}, code: 64, stderr: "or say --forget --all"},
		{args: []string{"set", "--forget", "--all"}, stdout: "What was learned of 3 sites is forgotten\n"},
		{args: []string{"reload"}, code: 1, stderr: "millrace.toml:7: no such key"},
		{args: []string{"cancel"}, code: 64, stderr: "say which mail"},
		{args: []string{"cancel", "--user", "joe"}, code: 1,
			stderr: "This ends 100,000 recipients of 90,000 messages (user joe) for good, without telling their senders. Say --yes"},
		{args: []string{"cancel", "--user", "nobody"}, code: 1, stderr: "nothing to cancel: user nobody"},
		{args: []string{"cancel", "--user", "joe", "--yes"},
			stdout: "100,000 recipients of 90,000 messages cancelled\n1 recipient in transactions under way; run it again for what comes back\n"},
		{args: []string{"expire", "--user", "joe"}, code: 1, stderr: "as expired, and reports that to their senders"},
		{args: []string{"hold", "--user", "joe"},
			stdout: "100,000 recipients of 90,000 messages on hold\n1 recipient in transactions under way; run it again for what comes back\n"},
		{args: []string{"release", "--user", "nobody"}, code: 1, stderr: "nothing to release: user nobody"},
		{args: []string{"expire", "--all"}, stdout: "Nothing to expire\n"},
		{args: []string{"flush", "--site", "google"}, code: 1, stderr: "{Verb:flush Filter:site google Dry:false To:}; 7 recipients will be tried now until then"},
		{args: []string{"requeue", "--older-than", "1d", "--state", "deferred"}, code: 1, stderr: "{Verb:requeue Filter:state deferred, older than 24h0m0s Dry:false To:}"},
		{args: []string{"requeue", "--state", "lost"}, code: 64, stderr: "must be one of"},
		{args: []string{"why", "gmail.com"}, stdout: whyGoogle},
		{args: []string{"why", "both.example"}, stdout: whyGoogle + "\n" + whyGoogle},
		{args: []string{"watch", "--site", "google"}, stderr: "watching; ^C ends it", stdout: `22:13:20.000     3 -- session of site google
22:13:20.000     3 C: EHLO mail.example.com
22:13:20.000     3 S: 250 ?[31mred
`},
		{args: []string{"report", "--day", "2023-11-14", "--json"}, code: 64, stderr: "a whole day"},
		{args: []string{"watch"}, code: 64, stderr: "say whose dialogues"},
		{args: []string{"watch", "--failed", "--first", "0"}, code: 64, stderr: "--first: "},
		{args: []string{"watch", "--recipient", "google"}, code: 64, stderr: `"google" is not an address; remedy: `},
		{args: []string{"web"}, stdout: "http://127.0.0.1:8891/enter?token=x\n"},
		{args: []string{"shape", "--by", "site", "--top", "2", "--state", "held"}, stdout: `                                         T  5 10 20 40 80 160 320 640 1280 1280+
                                  TOTAL 14  4  1  0  1  1   1   1   2    2     1
                               old.site 12  2  1  0  1  1   1   1   2    2     1
+me.is.far.too.long.to.be.shown.example  1  1  0  0  0  0   0   0   0    0     0
`},
		{args: []string{"shape", "--json", "--top", "1"}, stdout: `{"name":"old.destination","total":12,"by_age":[2,1,0,1,1,1,1,2,2,1]}
`},
		{args: []string{"shape", "--by", "colour"}, code: 64, stderr: "must be one of"},
		{args: []string{"find", "sale"}, stdout: found},
		{args: []string{"find", "sale", "--json"}, stdout: `{"queue_name":"general","queue_id":"M1-1F00","host_queue_id":"4F0C23","arrival_time":1700000062,"message_size":800,"sender":"sale@example.com","recipients":[{"address":"g@example.com","delay_reason":"wrong price","state":"held","domain":"","tries":0}]}
`},
		{args: []string{"find", "nobody"}, code: 1, stderr: "nothing queued has to do with \"nobody\"; what is done is in the log"},
		{args: []string{"qeue"}, code: 64, stderr: "did you mean \"queue\"?"},
		{args: []string{"why", "other"}, code: 1, stderr: "site other: not known to the agent"},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, x.args...)...)
		if r.code != x.code || r.stdout != x.stdout && x.code != 64 || !strings.Contains(r.stderr, x.stderr) || x.stderr == "" && r.stderr != "" {
			t.Errorf("millrace %q: exit code %d\n%s\n%s", x.args, r.code, r.stdout, r.stderr)
		}
	}
}

// The lines of a site that is told of alone do not name it, those of several do; the last of
// each has how it stands.
func TestWhyOfSeveralSitesForPrograms(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for text, want := range map[string][]string{"gmail.com": {"", ""}, "both.example": {"google", "google", "google", "google"}} {
		r := millrace(t, "TZ=UTC", "--config", config, "why", text, "--json")
		lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
		if r.code != 0 || len(lines) != len(want) {
			t.Errorf("%s: exit code %d\n%s\n%s", text, r.code, r.stdout, r.stderr)
			continue
		}
		for i, line := range lines {
			var x map[string]any
			if err := json.Unmarshal([]byte(line), &x); err != nil {
				t.Fatal(err)
			}
			site, named := x["site"]
			_, now := x["now"]
			if named != (want[i] != "") || named && site != want[i] || now != (i%2 == 1) || x["cause"] == nil {
				t.Errorf("%s, line %d: %s", text, i, line)
			}
		}
	}
}

func TestOnlyYesIsYes(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{"y\n": true, "yes\n": true, "Y\n": true, "n\n": false, "\n": false, "": false, "yolo\n": false} {
		var asked strings.Builder
		if got := confirm(strings.NewReader(answer), &asked, "Sure?"); got != want || asked.String() != "Sure? [y/N] " {
			t.Errorf("%q is %v, after %q", answer, got, asked.String())
		}
	}
}
