// Man writes the manual pages of Millrace into a directory:
//
//	go run ./packaging/man DIRECTORY
//
// It runs in the top of the source. The programs' pages are made of their --help,
// that of the configuration of the documented types in agent/config, that of events of
// the package comment of agent/event; what the
// programs do together is told by millrace.7 beside this file, and what hosts do by
// millrace-fleet.7.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 2 || strings.HasPrefix(os.Args[1], "-") { // -h is no directory
		fmt.Fprintln(os.Stderr, "usage: man DIRECTORY")
		os.Exit(64)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for program, section := range map[string]string{"millrace": "1", "millrace-agent": "8", "millrace-milter": "8"} {
		cmd := exec.Command("go", "run", "./cmd/"+program, "--man")
		cmd.Env = append(os.Environ(), "GOARCH=") // of this machine, whatever is built
		cmd.Stderr = os.Stderr
		page, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s --man: %w", program, err)
		}
		if err := os.WriteFile(filepath.Join(dir, program+"."+section), page, 0o644); err != nil {
			return err
		}
	}
	page, err := configuration("agent/config")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "millrace.toml.5"), page, 0o644); err != nil {
		return err
	}
	page, err = events("agent/event/event.go")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "millrace-events.5"), page, 0o644); err != nil {
		return err
	}
	for _, name := range []string{"millrace.7", "millrace-fleet.7"} {
		page, err := os.ReadFile("packaging/man/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}
