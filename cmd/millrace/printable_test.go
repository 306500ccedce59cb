package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/proxy"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// hostile is what a stranger might have somebody's terminal show: escape sequences in
// both widths, a line of his own, text that runs backwards.
const hostile = "\x1b[2J\u009b31m\u202e\u2028\x7f\u0085\r\nFORGED line"

// poison appends hostile to each string in what v points to.
func poison(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			poison(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				poison(v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			poison(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if k.Kind() == reflect.String {
				v.SetMapIndex(reflect.ValueOf(k.String()+hostile), v.MapIndex(k))
			}
		}
	case reflect.String:
		if v.CanSet() {
			v.SetString(v.String() + hostile)
		}
	}
}

func poisoned[T any](x T) T {
	poison(reflect.ValueOf(&x))
	return x
}

// liar is an agent of whose words each one is hostile.
type liar struct{ backend }

func (l liar) Status() control.Status           { return poisoned(l.backend.Status()) }
func (l liar) Totals() control.Totals           { return poisoned(l.backend.Totals()) }
func (l liar) Streams() []control.Stream        { return poisoned(l.backend.Streams()) }
func (l liar) Standing() control.StandingOrders { return poisoned(l.backend.Standing()) }
func (l liar) WebLink() (string, error)         { return "http://" + hostile, nil }
func (l liar) HandbackStatus() control.HandbackStatus {
	return control.HandbackStatus{Held: hostile, HostQueue: 1}
}
func (l liar) Shape(ctx context.Context, by string, f control.Filter) ([]control.Shape, error) {
	list, err := l.backend.Shape(ctx, by, f)
	return poisoned(list), err
}

func (l liar) Messages(_ context.Context, _ control.Filter, yield func(*control.Message) error) error {
	for _, m := range messages() {
		if m = poisoned(m); m.Sender == hostile {
			m.Sender = ""
		}
		if err := yield(&m); err != nil {
			return err
		}
	}
	return nil
}

func (l liar) Why(string) ([]control.Change, error) {
	list, err := l.backend.Why("google")
	return poisoned(list), err
}

func (l liar) FindSite(ctx context.Context, text string) (control.SiteFound, error) {
	x, err := l.backend.FindSite(ctx, text)
	return poisoned(x), err
}

func (l liar) Resume(context.Context, control.Filter) ([]control.Pause, error) {
	return l.Standing().Pauses, nil
}

func (l liar) ReloadConfig(context.Context) error {
	return fmt.Errorf("millrace.toml:7: no such key %q", strings.ReplaceAll(hostile, "\n", ""))
}

func (l liar) Suppressions(_ context.Context, yield func(*control.Suppression) error) error {
	return yield(&control.Suppression{Address: "a@b.example" + hostile, Stream: hostile, Class: hostile, Bounces: 3, Suppressed: true})
}

// fit checks that a text has nothing but printable characters and our line ends, and
// that no line begins with what a stranger wrote.
func fit(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }) || strings.HasPrefix(line, "FORGED") {
			t.Errorf("%s prints %q", what, line)
		}
	}
}

func TestVerbsPrintNothingThatTerminalsObey(t *testing.T) {
	t.Parallel()
	config := serve(t, liar{messages()})
	for _, verb := range []string{
		"queue", "find x", "streams", "brakes", "stats", "shape --by site", "why google", "resume --user joe", "web", "top", "top --streams",
		"handback --all --yes", "reload", "pause x", "set x --sessions 1", "priority x 4", "flush --site x", "hold --user joe", "suppress list", "suppress export", "suppress stats", "webhook list",
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, strings.Fields(verb)...)...)
		fit(t, verb, r.stdout)
		fit(t, verb, r.stderr)
		if r.stdout+r.stderr == "" {
			t.Errorf("%s prints nothing", verb)
		}
	}
	for _, verb := range []string{"queue", "find x", "streams", "brakes", "stats", "shape", "why google", "suppress list"} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, append(strings.Fields(verb), "--json")...)...)
		fit(t, verb+" --json", r.stdout)
		found := false
		for d := json.NewDecoder(strings.NewReader(r.stdout)); d.More(); {
			var x any
			if err := d.Decode(&x); err != nil {
				t.Fatalf("%s --json: %v\n%s", verb, err, r.stdout)
			}
			found = found || strings.Contains(fmt.Sprint(x), hostile) // nothing is lost
		}
		if !found {
			t.Errorf("%s --json has other text:\n%s", verb, r.stdout)
		}
	}
}

// The live view is written by the same rule, in the frame of a terminal.
func TestTopShowsStrangersTextAsText(t *testing.T) {
	t.Parallel()
	x := open(t, nil, "sh", "-c", "millrace --config "+serve(t, liar{messages()})+" top --every 50ms; echo left with $?; read wait")
	x.until("google?[2J?31m") // a screen that was not cleared
	x.keys("Enter")
	x.until("how many sessions, how fast, and why")
	x.until("2023-11-14 22:13:20    0 -> 2    start?[2J")
	x.keys("q")
	x.until("left with 0")
}

// What a message holds is shown on a terminal, and is kept where it goes elsewhere.
func TestCatShowsContentAsText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const said = "Subject: hi\x1b[2J\u009b2J\u202e\n\n\tgrüße\x9b\n"
	e := &spool.Envelope{Sender: "a@b.example", Arrived: time.Now(), Recipients: []spool.Recipient{{Address: "c@d.example"}}}
	receipt, err := w.Append(t.Context(), e, strings.NewReader(strings.ReplaceAll(said, "\n", "\r\n")))
	if err == nil {
		err = receipt.Release()
	}
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"spool", "-d", dir, "cat", receipt.ID().String()}
	if r := millrace(t, "", args...); !strings.Contains(r.stdout, "***\n"+said+"***") {
		t.Errorf("%q\n%s", r.stdout, r.stderr)
	}
	x := open(t, nil, "sh", "-c", "millrace "+strings.Join(args, " ")+"; echo left with $?; read wait")
	x.until("left with 0")
	x.until("\nSubject: hi?[2J?2J?\n\n        grüße?\n***")
	x.until("*** ENVELOPE RECORDS")
}

// What a server shows in its certificate comes by errors: with TLS required it is the
// reason why mail waits.
func TestTraceShowsCertificatesAsText(t *testing.T) {
	t.Parallel()
	names := []string{"a\x1b[2J\nFORGED.test"}
	for i := range 2000 {
		names = append(names, fmt.Sprintf("name-%d-%s.test", i, strings.Repeat("x", 20)))
	}
	pair, err := selfsigned.New(names...)
	if err != nil {
		t.Fatal(err)
	}
	server, err := proxy.New(proxy.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	err = server.Answer(func(c net.Conn) {
		fmt.Fprint(c, "220 mx\x1b]0;x\a\u202e\r\n")
		buf := make([]byte, 512)
		c.Read(buf)
		fmt.Fprint(c, "250-mx\u009b2J\r\n250 STARTTLS\r\n")
		c.Read(buf)
		fmt.Fprint(c, "220 go\r\n")
		tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair.TLS}}).Handshake()
	})
	if err != nil {
		t.Fatal(err)
	}
	config := receivers(t, fmt.Sprintf("[general]\ntls = \"verify\"\nroute = \"relay:%s\"\n", server.Addr()), sink.Provider{Name: "far", Domains: []string{"far.test"}})
	if err := os.WriteFile(filepath.Join(filepath.Dir(config), "ca.pem"), pair.Cert, 0o600); err != nil {
		t.Fatal(err)
	}
	r := millrace(t, "", "--config", config, "trace", "far.test")
	fit(t, "trace", r.stdout)
	fit(t, "trace", r.stderr)
	if r.code != 1 || !strings.Contains(r.stderr, "x509") || len(r.stderr) > 4096 || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("exit code %d, %d octets, %.2000q\n%s", r.code, len(r.stderr), r.stderr, r.stdout)
	}
}

// No file prints but through package printable, which makes arguments fit: neither by
// fmt nor by writing to standard output itself. What is listed writes what is ours.
func TestAllPrintingIsByPrintable(t *testing.T) {
	t.Parallel()
	ours := map[string]bool{
		"completion.go: os.Stdout.Write": true, // a script of this package
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		tree, err := parser.ParseFile(fset, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			name := printed(f)
			encoder := name == "json.NewEncoder" && !strings.HasPrefix(printed(call.Args[0]), "printable.NewJSON")
			if (strings.HasPrefix(name, "fmt.Print") || strings.HasPrefix(name, "fmt.Fprint") || strings.HasPrefix(name, "os.Std") && strings.Contains(name, ".Write") || encoder) && !ours[file+": "+name] {
				t.Errorf("%s: %s prints without package printable", fset.Position(n.Pos()), name)
			}
			return true
		})
	}
}

// printed is the name of what is called.
func printed(n ast.Expr) string {
	switch x := n.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return printed(x.X) + "." + x.Sel.Name
	case *ast.CallExpr:
		return printed(x.Fun)
	}
	return ""
}
