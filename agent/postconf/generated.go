package postconf

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// generatedWords are how comments say that a file is not an admin's to edit.
var generatedWords = regexp.MustCompile(`(?i)\b(ansible|puppet|chef|salt(stack)?|cfengine|terraform|nixos|(auto-?|automatically )?generated|managed by|do not (edit|modify|change)|don't edit|overwritten)\b`)

// panels are programs that write main.cf and master.cf anew, by what lies on their hosts.
var panels = []struct{ path, name string }{
	{"/usr/local/psa", "Plesk"},
	{"/usr/local/ispconfig", "ISPConfig"},
	{"/etc/webmin/virtual-server", "Virtualmin"},
	{"/etc/yunohost", "YunoHost"},
	{"/etc/mailinabox.conf", "Mail-in-a-Box"},
	{"/etc/iredmail-release", "iRedMail"},
	{"/usr/local/CyberCP", "CyberPanel"},
	{"/opt/zimbra", "Zimbra"},
	{"/etc/univention", "Univention"},
	{"/.dockerenv", "what starts this container"},
}

// Generated says what writes an instance's files beside the admin, if anything shows:
// what set-up changes there is lost when it writes them again.
func Generated(dir string) string {
	const advice = "what it writes anew has no Millrace; let it write these lines, or run millrace setup after it"
	for _, name := range files {
		path := filepath.Join(dir, name)
		if real, err := filepath.EvalSymlinks(path); err == nil && strings.HasPrefix(real, "/nix/store/") {
			return fmt.Sprintf("%s is of NixOS' store: %s", path, advice)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") && generatedWords.MatchString(line) {
				return fmt.Sprintf("%s:%d says %q: if a program writes this file, %s", path, n, strings.TrimSpace(strings.TrimLeft(line, "#")), advice)
			}
		}
	}
	for _, p := range panels {
		if _, err := os.Stat(p.path); err == nil {
			return fmt.Sprintf("%s may write Postfix's files: %s", p.name, advice)
		}
	}
	return ""
}
