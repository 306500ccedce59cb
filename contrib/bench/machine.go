package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what the figures depend on, as names and values.
type machine [][2]string

// describeMachine finds what it can; ground is the file system. What it cannot find is "unknown".
func describeMachine(ctx context.Context, ground string) machine {
	return machine{
		{"CPU", fieldOf("/proc/cpuinfo", "model name")},
		{"cores", fmt.Sprint(runtime.NumCPU())},
		{"memory", fieldOf("/proc/meminfo", "MemTotal")},
		{"kernel", kernel()},
		{"file system of queues and spool", ground},
		{"Postfix", strings.TrimPrefix(said(ctx, "postconf", "-d", "mail_version"), "mail_version = ")},
		{"Go", runtime.Version() + " " + runtime.GOARCH},
		{"load average at the start", loadAverage()},
		{"Millrace", said(ctx, "git", "describe", "--always", "--dirty")},
	}
}

func (m machine) table() *table {
	t := &table{columns: []string{"machine", ""}}
	for _, f := range m {
		t.rows = append(t.rows, f[:])
	}
	return t
}

func (m machine) text(w io.Writer) { m.table().text(w) }

const unknown = "unknown"

// fieldOf is the value of the first line "name : value" of a file.
func fieldOf(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return unknown
	}
	for line := range bytes.Lines(b) {
		key, value, ok := strings.Cut(string(line), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return unknown
}

// kilobytesOf is the number in a line "name : 12345 kB" of a file of /proc.
func kilobytesOf(file, name string) (float64, error) {
	v := fieldOf(file, name)
	kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 64)
	if err != nil {
		return math.NaN(), fmt.Errorf("no %s in %s: %q", name, file, v)
	}
	return kb, nil
}

// loadAverage tells a reader whether the machine had other work.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(b)); err == nil && len(fields) > 3 {
		return strings.Join(fields[:3], " ")
	}
	return unknown
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return unknown
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// fileSystem names the kind of file system below dir: a sync costs little in
// memory and much on a disk.
func fileSystem(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return unknown
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext2/3/4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	}
	return fmt.Sprintf("type %#x", st.Type)
}

func said(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return unknown
	}
	return strings.TrimSpace(string(out))
}
