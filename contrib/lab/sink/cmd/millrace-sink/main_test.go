package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func parse(t *testing.T, args ...string) *options {
	t.Helper()
	var o options
	p, err := newParser(&o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &o
}

func TestHelpTeaches(t *testing.T) {
	t.Parallel()
	var o options
	var out bytes.Buffer
	exited := false
	p, err := newParser(&o, kong.Writers(&out, &out), kong.Exit(func(int) { exited = true }))
	if err != nil {
		t.Fatal(err)
	}
	p.Parse([]string{"--help"})
	for _, want := range []string{"    smtp-source -d", "[[provider]]", "--preset=NAME", "ideal, mixed, slow"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if !exited {
		t.Error("went on after the help")
	}
}

func TestScenarioShownMayBeReadAgain(t *testing.T) {
	t.Parallel()
	var shown bytes.Buffer
	if err := parse(t, "--show", "--preset", "slow").run(t.Context(), &shown, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mine.toml")
	if err := os.WriteFile(file, shown.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	text, err := parse(t, "--scenario", file).scenario()
	if err != nil || text != shown.String() {
		t.Errorf("%v: %s", err, text)
	}
}

func TestKeysAreListed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := parse(t, "--keys").run(t.Context(), &out, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != len(sink.Keys()) {
		t.Errorf("%d lines for %d keys", lines, len(sink.Keys()))
	}
}

func TestRunServesAndWritesLedger(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ledger.jsonl")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read, write := io.Pipe()
	ended := make(chan error)
	go func() {
		err := parse(t, "--preset", "ideal", "--ledger", file).run(ctx, write, slog.New(slog.DiscardHandler))
		write.Close()
		ended <- err
	}()
	in := bufio.NewReader(read)
	first, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var dns, control string
	var port int
	if _, err := fmt.Sscanf(first, "dns=%s port=%d control=%s", &dns, &port, &control); err != nil {
		t.Fatalf("%q: %v", first, err)
	}
	g := &inject.Generator{Domains: []string{"a.test"}}
	r, err := (&inject.Injector{Addr: fmt.Sprintf("127.16.0.1:%d", port), Connections: 3}).Run(ctx, 30, g.Message)
	if err != nil || r.Messages != 30 {
		t.Errorf("%+v, %v", r, err)
	}
	res, err := http.Get(control + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	for live := ""; !strings.HasPrefix(live, "30 accepted, "); {
		if live, err = in.ReadString('\n'); err != nil {
			t.Fatalf("live line %q, %v", live, err)
		}
	}
	go io.Copy(io.Discard, in)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	received, err := ledger.ReadJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	if rep := ledger.Compare(r.Ledger, received); !rep.Clean() || rep.Received != 30 {
		t.Errorf("%s", rep)
	}
}

func TestLiveLineNamesHostsWithTraffic(t *testing.T) {
	t.Parallel()
	before := &sink.Stats{Hosts: []sink.HostStats{{Host: "a", Messages: 5}, {Host: "b", Messages: 1}}}
	now := &sink.Stats{Hosts: []sink.HostStats{
		{Host: "a", Messages: 9, Open: 2, Refused: map[sink.Cause]int64{sink.CauseConnections: 3}},
		{Host: "b", Messages: 1},
		{Host: "new", Messages: 1},
	}}
	const want = "11 accepted, 5/s | a 2 open 4/s 3 refused | new 0 open 1/s"
	if got := line(before, now); got != want {
		t.Errorf("got %q", got)
	}
}
