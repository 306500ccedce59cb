package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

// asProgram makes the test binary be the program.
const asProgram = "MILLRACE_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	leaks.Main(m)
}

// result is what one run of the program left.
type result struct {
	code           int
	stdout, stderr string
}

// millrace runs the program with an environment entry and arguments.
func millrace(t *testing.T, env string, args ...string) result {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", env)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// TestEachVerbHasExamples wants what --help, and so the manual page, shows of a verb.
func TestEachVerbHasExamples(t *testing.T) {
	t.Parallel()
	for _, verb := range model(t).Leaves(true) {
		path, text := verb.Name, verb.Detail
		for n := verb.Parent; n != nil && n.Parent != nil; n = n.Parent {
			path, text = n.Name+" "+path, n.Detail+"\n"+text // millrace suppress --help tells of all of it
		}
		if !strings.Contains(text, "Example") || !strings.Contains(text, "millrace "+path) {
			t.Errorf("millrace %s --help has no example:\n%s", path, text)
		}
		for line := range strings.Lines(verb.Detail) {
			if len(line) > 91 {
				t.Errorf("millrace %s --help is too wide: %s", path, line)
			}
		}
	}
}
