package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// WithClocks is WithPrograms, and has the same programs with clocks on the wall that are ahead by
// so many seconds; ProgramsAt tells where they are. Nothing else gives a Go program a wrong clock
// of its own: a time namespace moves CLOCK_MONOTONIC and CLOCK_BOOTTIME only, and a Go program asks
// the kernel itself, so a library that is put before it (faketime) is never called. What the kernel
// writes, such as the times of files, stays right.
func WithClocks(ahead ...time.Duration) Option {
	return func(p *preparation) { p.programs, p.clocks = true, ahead }
}

// ProgramsAt is the directory of the programs whose clock is so much ahead.
func ProgramsAt(ahead time.Duration) (string, error) {
	dir, err := Programs()
	if err != nil || ahead == 0 {
		return dir, err
	}
	dir = clockDir(dir, ahead)
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("programs with a clock %v ahead were not built: %w", ahead, err)
	}
	return dir, nil
}

func clockDir(dir string, ahead time.Duration) string {
	return filepath.Join(dir, fmt.Sprintf("clock%+d", ahead/time.Second))
}

// buildClock links the three programs once more, against a runtime that adds to the seconds of the
// clock. Only its assembly is another: all other packages fit it as they are, and nothing of
// them is compiled anew.
func buildClock(dir string, ahead time.Duration) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("build the programs with a clock %v ahead: %w", ahead, err)
		}
	}()
	if runtime.GOARCH != "amd64" || os.Getenv("LAB_RACE") == "1" {
		return errors.New("only on amd64, and without the race detector")
	}
	dir = clockDir(dir, ahead)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := goSays("env", "GOROOT")
	if err != nil {
		return err
	}
	path := filepath.Join(root, "src", "runtime", "time_linux_amd64.s")
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const read = "MOVQ\t16(SP), AX\t// realtime sec\n"
	if strings.Count(string(source), read) != 1 {
		return fmt.Errorf("%s does not read the clock as this lab knows it (%q): adapt contrib/lab/clock.go", path, read)
	}
	shifted := filepath.Join(dir, "time.s")
	source = bytes.Replace(source, []byte(read), fmt.Appendf([]byte(read), "\tADDQ\t$%d, AX\n", ahead/time.Second), 1)
	if err := os.WriteFile(shifted, source, 0o644); err != nil {
		return err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: shifted}})
	if err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o644); err != nil {
		return err
	}
	clock, err := goSays("list", "-export", "-overlay", overlay, "-f", "{{.Export}}", "runtime")
	if err != nil {
		return err
	}
	for _, program := range []string{"millrace", "millrace-agent", "millrace-milter"} {
		pkg := "github.com/millrace/millrace/cmd/" + program
		packages, err := goSays("list", "-export", "-deps", "-f", "{{if .Export}}packagefile {{.ImportPath}}={{.Export}}{{end}}", pkg)
		if err != nil {
			return err
		}
		main := ""
		var files strings.Builder
		for line := range strings.Lines(packages + "\n") {
			switch name, file, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "packagefile ")), "="); name {
			case pkg:
				main = file
			case "runtime":
				fmt.Fprintf(&files, "packagefile runtime=%s\n", clock)
			default:
				files.WriteString(line)
			}
		}
		config := filepath.Join(dir, program+".link")
		if err := os.WriteFile(config, []byte(files.String()), 0o644); err != nil {
			return err
		}
		if _, err := goSays("tool", "link", "-importcfg", config, "-buildmode=exe", "-o", filepath.Join(dir, program), main); err != nil {
			return err
		}
	}
	return nil
}

// goSays runs go with these arguments, and gives what it wrote.
func goSays(args ...string) (string, error) {
	out, err := outputOf(exec.Command("go", args...))
	return string(bytes.TrimSpace(out)), err
}
