package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Feedback says what is done with delivery reports and complaints that come back.
type Feedback struct {
	// Read has the milter read delivery reports (RFC 3464) and feedback reports (RFC
	// 5965) that pass through the host's MTA to whomever they are for, unchanged. What
	// they say of mail of ours is told by events (late_bounce, complaint, feedback) and
	// counts for [suppression] as the mode of the stream says, where it can be believed.
	// millrace feedback reads a report whatever stands here. Default: false; the
	// configuration of a new installation has true.
	Read bool `toml:"read"`
	// KeyFile is a file with secrets that hosts share whose reports come to one of them:
	// one a line, of 32 characters or more. The first one marks mail, all are known in
	// what comes back. To change it write a new one above the old, on all hosts, and
	// remove the old one 30 days later: reports on older mail count no more. Nobody but
	// root and the agent may read it. Default: none, each host knows its own mail only.
	KeyFile string `toml:"key_file"`

	Secrets [][]byte `toml:"-"` // what KeyFile holds; none where it may not be used
}

// Offer is what a host is told where reports are not read; "" if they are.
func (f *Feedback) Offer() string {
	if f.Read {
		return ""
	}
	return "delivery reports and complaints that come back are not read: with read = true under [feedback] they are events, and count for [suppression] as its mode says"
}

// minSecret is the least length of a secret, in octets.
const minSecret = 32

func (l *loader) checkFeedback(f *Feedback) {
	const path = "feedback.key_file"
	file := f.KeyFile
	if file == "" {
		return
	}
	wrong := func(text, todo string) {
		l.fail(path, remedy(fmt.Sprintf("key_file: %q %s", file, text), todo))
	}
	if !filepath.IsAbs(file) {
		wrong("is not an absolute path", "begin it with /")
		return
	}
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		l.refuse(path, remedy(fmt.Sprintf("key_file: %q may not be read by this user; marks are this host's own", file), "chown it to the agent's user"))
		return
	case err != nil:
		wrong("cannot be read: "+cause(err), "create it: openssl rand -hex 32")
		return
	}
	if who := l.exposed(file); who != "" {
		l.refuse(path, remedy(fmt.Sprintf("key_file: %s can read %q; it is not used, and marks are this host's own", who, file), ownReaders))
		return
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case len(line) < minSecret:
			wrong(fmt.Sprintf("has a line of %d characters", len(line)), fmt.Sprintf("write %d or more: openssl rand -hex 32", minSecret))
			return
		default:
			f.Secrets = append(f.Secrets, []byte(line))
		}
	}
	if len(f.Secrets) == 0 {
		wrong("has no secret in it", "write one: openssl rand -hex 32")
	}
}
