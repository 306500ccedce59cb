package postconf

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// HostQueue counts the messages that the default instance of Postfix, or that of
// MAIL_CONFIG, is at work on: those in its incoming and active queues. The zero
// value is ready for use, by one goroutine.
//
// There are two ways, and both may be closed to a user that is not root. The cheap
// one reads the names in the two directories, which belong to the user postfix. The
// other asks showq(8) by postqueue(1), as mailq does; showq opens each file of the
// whole queue, so on a host with much deferred mail this takes long. It needs
// postqueue's set-group-ID bit, which a service with NoNewPrivileges does not get, or
// the group postdrop.
type HostQueue struct {
	dir string // queue_directory
}

// lengthTime is how long the counting may take: what costs more is worse than not to
// know.
const lengthTime = 3 * time.Second

// Length returns the number of messages. An error says that it cannot be had, for
// good (rights) or for now.
func (h *HostQueue) Length(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, lengthTime)
	defer cancel()
	if h.dir == "" {
		dir, err := queueDirectory(ctx)
		if err != nil {
			return 0, err
		}
		h.dir = dir
	}
	n, err := h.files()
	if !errors.Is(err, fs.ErrPermission) {
		return n, err
	}
	return listed(ctx)
}

// queueDirectory asks postconf.
func queueDirectory(ctx context.Context) (string, error) {
	path, err := findPostconf()
	if err != nil {
		return "", err
	}
	out, err := postconf(ctx, append(path, "-x", "-h", "queue_directory"))
	return strings.TrimSpace(out), err
}

// files counts queue files, in subdirectories too: Postfix may hash any queue. A
// file that moves on meanwhile may be counted in both queues or in none.
func (h *HostQueue) files() (n int, err error) {
	for _, queue := range []string{"incoming", "active"} {
		top := filepath.Join(h.dir, queue)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path != top {
				return nil
			}
			if err == nil && !d.IsDir() {
				n++
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}

// listed counts in the output of postqueue -j, to its end: showq reads on when its
// client leaves, so leaving saves nothing and hides what it costs.
func listed(ctx context.Context) (n int, err error) {
	path, err := findPostqueue()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, path, "-j")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	d := json.NewDecoder(bufio.NewReaderSize(out, 64<<10))
	for {
		var m struct {
			Queue string `json:"queue_name"`
		}
		if err = d.Decode(&m); err != nil {
			break // the end, or what Wait tells
		}
		if m.Queue == "incoming" || m.Queue == "active" {
			n++
		}
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%s -j: %w: %s", path, err, strings.TrimSpace(complaint.String()))
	}
	return n, nil
}

// findPostqueue returns the command, which stands beside postconf.
func findPostqueue() (string, error) {
	for _, name := range []string{"postqueue", "/usr/sbin/postqueue", "/usr/local/sbin/postqueue"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w (no postqueue found)", ErrNone)
}
