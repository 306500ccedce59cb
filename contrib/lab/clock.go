package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ClockEnv is by how many seconds the clock of a program is ahead that was built with
// [WithClocks]: "300", "-300". Programs that know nothing of it have the machine's.
const ClockEnv = "MILLRACE_LAB_CLOCK"

// WithClocks is WithPrograms, whose programs may have clocks that go wrong ([ClockEnv]). Nothing
// else can give a Go program a wrong clock of its own: a time namespace moves CLOCK_MONOTONIC and
// CLOCK_BOOTTIME only, and the program asks the kernel itself, so that a library which is put before it
// (faketime) is never called. So package time is compiled with one line more. Only the clock on
// the wall is shifted; what the kernel writes, such as the times of files, is not.
func WithClocks(p *preparation) { p.programs, p.clocks = true, true }

// overlayClock writes what go build -overlay needs into dir, and gives its path.
func overlayClock(dir string) (string, error) {
	root, err := outputOf(exec.Command("go", "env", "GOROOT"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(string(bytes.TrimSpace(root)), "src", "time", "time.go")
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	const read = "sec, nsec, mono := runtimeNow()\n"
	if bytes.Count(source, []byte(read)) != 1 {
		return "", fmt.Errorf("%s: time.Now does not read the clock as this lab knows it (%q): adapt contrib/lab/clock.go", path, read)
	}
	source = bytes.Replace(source, []byte(read), []byte(read+"\tsec += labClock\n"), 1)
	source = append(source, fmt.Sprintf(`
var labClock = func() (n int64) {
	s, _ := syscall.Getenv(%q)
	minus := len(s) > 0 && s[0] == '-'
	for _, c := range s {
		if '0' <= c && c <= '9' {
			n = 10*n + int64(c-'0')
		}
	}
	if minus {
		return -n
	}
	return n
}()
`, ClockEnv)...)
	const unsafeImport = "import (\n"
	if !bytes.Contains(source, []byte(unsafeImport)) {
		return "", fmt.Errorf("%s: no list of imports", path)
	}
	source = bytes.Replace(source, []byte(unsafeImport), []byte(unsafeImport+"\t\"syscall\"\n"), 1)
	shifted := filepath.Join(dir, "time.go")
	if err := os.WriteFile(shifted, source, 0o644); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: shifted}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, list, 0o644)
}
