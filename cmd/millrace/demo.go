package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// demoCmd starts the demo, a program of its own (contrib/demo): what it is built of
// has no place in the admin's command.
type demoCmd struct {
	Messages    int           `default:"5000" help:"How many messages, a tenth of them transactional."`
	Connections int           `default:"20" help:"Over how many connections they are injected."`
	Timeout     time.Duration `default:"5m" help:"Give up after this long."`
}

func (c *demoCmd) Help() string {
	return `Needs root and Debian's postfix package; no configuration. It runs in network
and mount namespaces of its own: nothing can leave the machine, and neither
/etc/postfix nor a running Postfix is touched. Everything it makes is removed
at the end. The exit code is 0 only if nothing was lost, doubled or altered.

Example:
  millrace demo --messages 20000`
}

// demoProgram is the name of the demo's program.
const demoProgram = "millrace-demo"

// libexec is where the package has programs that are not for PATH.
const libexec = "/usr/libexec/millrace"

// Run puts the demo in the place of this program.
func (c *demoCmd) Run(context.Context) error {
	path, err := findDemo()
	if err != nil {
		return err
	}
	err = syscall.Exec(path, []string{demoProgram,
		"-messages", fmt.Sprint(c.Messages), "-connections", fmt.Sprint(c.Connections), "-timeout", c.Timeout.String(),
	}, os.Environ())
	return fmt.Errorf("%s: %w", path, err)
}

// findDemo looks beside this program, where make build puts it, and in libexec.
func findDemo() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{filepath.Dir(self), libexec} {
		path := filepath.Join(dir, demoProgram)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s beside this program or in %s; remedy: make build, or install the package", demoProgram, libexec)
}
