package fleet

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet/lease"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// server is a real redis-server of the test, on loopback.
type server struct {
	t       testing.TB
	address string
	args    []string
	process *exec.Cmd
}

func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{t: t, args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start returns when it listens: at the address of before, or at one that nobody else has taken
// between the choice and redis-server's bind.
func (s *server) start() {
	s.t.Helper()
	for s.t.Context().Err() == nil {
		address := s.address
		if address == "" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				s.t.Fatal(err)
			}
			address = l.Addr().String()
			l.Close()
		}
		_, port, _ := net.SplitHostPort(address)
		args := append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", s.t.TempDir()}, s.args...)
		process := exec.Command("redis-server", args...)
		says, err := process.StdoutPipe()
		if err == nil {
			err = process.Start()
		}
		if err != nil {
			s.t.Fatalf("%v: make deps installs redis-server", err)
		}
		for lines := bufio.NewScanner(says); lines.Scan(); {
			if strings.Contains(lines.Text(), "eady to accept connections") {
				s.address, s.process = address, process
				go io.Copy(io.Discard, says) // to the end of the process
				return
			}
		}
		process.Wait() // it could not bind, and has said so
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatal("redis-server does not listen")
}

func (s *server) kill() {
	if s.process != nil {
		s.process.Process.Kill()
		s.process.Wait() // of its status is known that it was killed
		s.process = nil
	}
}

func (s *server) do(args ...any) any {
	s.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.address, Protocol: 2, DisableIdentity: true})
	defer c.Close()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return v
}

// quick is a clock that goes so fast that a lease takes two seconds.
func quick() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Hour + 15*time.Since(began) }
}

// until waits until something is so; the test's own deadline ends it.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for !is() {
		if t.Context().Err() != nil {
			t.Fatalf("%s never came", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// /readyz leaves out what looks like the local part of an address; the remedy must come whole.
func TestRemedyHasNothingLikeAnAddress(t *testing.T) {
	t.Parallel()
	if shown := maillog.WithoutLocalParts(ACLHint); shown != ACLHint {
		t.Errorf("an admin is shown %q", shown)
	}
}

func TestFleetOfARealStore(t *testing.T) {
	t.Parallel()
	dead := startServer(t)
	s := startServer(t)
	replica := startServer(t, "--replicaof", strings.Replace(s.address, ":", " ", 1))
	user := strings.Fields(strings.NewReplacer(">PASSWORD", ">geheim").Replace(ACLHint))
	var acl []any
	for _, w := range user {
		acl = append(acl, w)
	}
	s.do(acl...)
	dead.kill()
	r := &receiver{t: t, limit: 10}
	var nodes []*node
	for _, name := range []string{"a", "b"} {
		nodes = append(nodes, newNode(t, name, t.TempDir(), 2, r, Options{Boot: quick(), Look: 10 * time.Millisecond, Config: config.Fleet{
			User: "millrace", Password: "geheim", Stores: []config.FleetStore{{Address: dead.address}, {Address: replica.address}, {Address: s.address}},
		}}))
	}
	until(t, "the store", func() bool { return nodes[0].Status().Calls > 0 })
	if at := nodes[0].Status().Server; at != s.address {
		t.Errorf("the store is %s, of which %s is down, %s a replica, %s the primary", at, dead.address, replica.address, s.address)
	}
	nodes[0].set(10)
	nodes[1].set(10)
	until(t, "all in use", func() bool { return nodes[0].sessions()+nodes[1].sessions() == 10 })
	s.kill()
	until(t, "the end of the leases", func() bool {
		a, b := nodes[0].Status(), nodes[1].Status()
		return a.Runs == 0 && b.Runs == 0 && a.Away != nil && b.Away != nil
	})
	nodes[0].turn()
	if n := nodes[0].sessions(); n != 5 {
		t.Errorf("%d sessions without a store, of a floor of 5", n)
	}
	s.start() // empty, and without the user
	until(t, "a refusal", func() bool {
		why := nodes[0].Status().Away
		return why != nil && strings.Contains(why.Error(), "WRONGPASS") && strings.Contains(why.Error(), "; remedy: write the user")
	})
	s.do("ACL", "SETUSER", "millrace", "on", ">geheim", "-@all", "+hello", "+auth", "+role")
	until(t, "a refusal", func() bool {
		why := nodes[0].Status().Away
		return why != nil && strings.Contains(why.Error(), "NOPERM") && strings.Contains(why.Error(), ACLHint)
	})
	s.do(acl...)
	until(t, "the store", func() bool { st := nodes[0].Status(); return st.Away == nil && st.Why == "" })
	until(t, "all in use", func() bool { return nodes[0].sessions()+nodes[1].sessions() == 10 })
}

// A store that says anything but what it should, or nothing, is away. Nothing else comes of it.
func TestStoreThatTalksNonsense(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{
		"a length":     "$99999999999\r\n",
		"a long list":  "*99999999\r\n",
		"nested lists": strings.Repeat("*1\r\n", 10_000),
		"a banner":     "220 mail.example.com ESMTP\r\n",
		"a long error": "-" + strings.Repeat("x", 1<<20),
		"binary":       "\x16\x03\x01\x02",
		"a push":       ">99999999\r\n",
		"half":         "*3\r\n$6\r\nmas",
		"the end":      "",
		"other types":  "*1\r\n:5\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						var b [512]byte
						for {
							if _, err := conn.Read(b[:]); err != nil {
								return
							}
							if io.WriteString(conn, says); says == "" {
								return
							}
						}
					}()
				}
			}()
			st := &store{o: &config.Fleet{Stores: []config.FleetStore{{Address: l.Addr().String()}}}, script: redis.NewScript(lease.Script)}
			if _, err := st.Do(t.Context(), &lease.Call{Fleet: "mail", Node: "a"}); err == nil || len(err.Error()) > 2000 {
				t.Errorf("%.100v", err)
			}
		})
	}
}

// A store that hangs costs a call its deadline, and the next server is asked.
func TestStoreThatHangs(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st := &store{o: &config.Fleet{Stores: []config.FleetStore{{Address: l.Addr().String()}, {Address: s.address}}}, script: redis.NewScript(lease.Script)}
	defer st.close()
	r, err := st.Do(t.Context(), &lease.Call{Fleet: "mail", Node: "a", N: 1})
	if err != nil || r.Why != lease.Hello || st.server != s.address {
		t.Errorf("%+v, %v", r, err)
	}
	s.do("CLIENT", "PAUSE", 20_000, "ALL")
	if _, err := st.Do(t.Context(), &lease.Call{Fleet: "mail", Node: "a", N: 2}); err == nil {
		t.Error("a store that is paused answers")
	}
}

func TestGuardPassesWhatRedisSays(t *testing.T) {
	t.Parallel()
	const good = "+OK\r\n-ERR no\r\n:5\r\n$-1\r\n*-1\r\n$0\r\n\r\n$5\r\na\r\n*9\r\n*2\r\n*0\r\n$1\r\nx\r\n"
	for _, size := range []int{1, 3, 1000} {
		a, b := net.Pipe()
		go func() {
			for part := range bytes.SplitSeq([]byte(good), []byte("|")) {
				for len(part) > 0 {
					n := min(size, len(part))
					b.Write(part[:n])
					part = part[n:]
				}
			}
			b.Close()
		}()
		got, err := io.ReadAll(&guard{Conn: a})
		if string(got) != good || err != nil {
			t.Errorf("by %d: %q, %v", size, got, err)
		}
	}
}

func TestCheckTellsWhatIsWrongWithTheStore(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	o := &config.Fleet{Name: "mail", Node: "a", Stores: []config.FleetStore{{Address: s.address}}}
	if wrong := Check(t.Context(), o); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	if keys := s.do("DBSIZE"); keys != int64(0) {
		t.Errorf("%v keys are left", keys)
	}
	// Files that are gone keep no node from a store without TLS.
	lost := *o
	lost.TLSCAFile, lost.TLSCertFile, lost.TLSKeyFile = "/nowhere/ca.pem", "/nowhere/a.pem", "/nowhere/a.key"
	if wrong := Check(t.Context(), &lost); len(wrong) != 1 || !strings.HasPrefix(wrong[0], "tls_ca_file of [fleet]: ") {
		t.Errorf("without the files: %q", wrong)
	}
	s.do("ACL", "SETUSER", "millrace", "on", ">geheim", "~millrace:*", "-@all", "+hello", "+auth", "+role", "+eval", "+info", "+time")
	o.User, o.Password = "millrace", "geheim"
	if wrong := Check(t.Context(), o); len(wrong) != 1 || !strings.Contains(wrong[0], ACLHint) {
		t.Errorf("%q", wrong)
	}
	var acl []any
	for _, w := range strings.Fields(strings.NewReplacer(">PASSWORD", ">geheim").Replace(ACLHint)) {
		acl = append(acl, w)
	}
	s.do(acl...)
	if wrong := Check(t.Context(), o); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	for _, command := range []string{"xadd", "xread", "xinfo"} { // of orders
		s.do("ACL", "SETUSER", "millrace", "-"+command)
		if wrong := Check(t.Context(), o); len(wrong) != 1 || !strings.Contains(wrong[0], ACLHint) {
			t.Errorf("without %s: %q", command, wrong)
		}
		s.do("ACL", "SETUSER", "millrace", "+"+command)
	}
	if keys := s.do("DBSIZE"); keys != int64(0) {
		t.Errorf("%v keys are left", keys)
	}
	s.kill()
	if wrong := Check(t.Context(), o); len(wrong) != 2 || !strings.Contains(wrong[0], "connection refused") || !strings.Contains(wrong[1], "; remedy: ") {
		t.Errorf("%q", wrong)
	}
	if wrong := Check(t.Context(), &config.Fleet{Stores: o.Stores}); len(wrong) > 0 {
		t.Errorf("%q of no fleet", wrong)
	}
}

// A certificate that others refuse is told before the agent is started with it.
func TestCheckTellsWhatIsWrongWithTheCertificate(t *testing.T) {
	t.Parallel()
	issue := func(ca *selfsigned.Authority, leaf selfsigned.Leaf) (auth, cert, key string) {
		leaf.DNS = []string{"a"}
		p, err := ca.Issue(leaf)
		if err == nil {
			auth, cert, key, err = ca.Write(t.TempDir(), "a", p)
		}
		if err != nil {
			t.Fatal(err)
		}
		return auth, cert, key
	}
	authority := func() *selfsigned.Authority {
		ca, err := selfsigned.NewAuthority("authority")
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	ca := authority()
	auth, cert, key := issue(ca, selfsigned.Leaf{})
	o := &config.Fleet{Name: "mail", Node: "a", TLSCAFile: auth, TLSCertFile: cert, TLSKeyFile: key}
	if wrong := Check(t.Context(), o); len(wrong) != 1 || !strings.Contains(wrong[0], "servers") {
		t.Errorf("%q of a good one", wrong)
	}
	now := time.Now()
	for what, x := range map[string]struct {
		ca   *selfsigned.Authority
		leaf selfsigned.Leaf
		want string
	}{
		"another authority": {authority(), selfsigned.Leaf{}, "unknown authority"},
		"another fleet":     {ca, selfsigned.Leaf{URI: []string{"millrace:web"}}, `of the fleet "web"`},
		"ends soon":         {ca, selfsigned.Leaf{NotAfter: now.Add(24 * time.Hour)}, " ends at "},
		"ended":             {ca, selfsigned.Leaf{NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-24 * time.Hour)}, " has ended at "},
	} {
		_, o.TLSCertFile, o.TLSKeyFile = issue(x.ca, x.leaf)
		if wrong := Check(t.Context(), o); len(wrong) != 2 || !strings.Contains(wrong[0], x.want) || !strings.Contains(wrong[0], "; remedy: ") {
			t.Errorf("%s: %q", what, wrong)
		}
	}
}
