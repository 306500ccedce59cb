package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// removal runs prerm in a mount namespace with a spool of its own and a user millrace,
// and a millrace that has mail queued. The first argument is the script, the second a
// command that runs as that user before.
const removal = `
mount -t tmpfs -o mode=0755 tmpfs /var/spool
mkdir -m 0700 /var/spool/millrace
chown 64711:64711 /var/spool/millrace
for file in passwd group; do
    cat /etc/$file >"$3/$file"
done
echo millrace:x:64711:64711::/:/bin/false >>"$3/passwd"
echo millrace:x:64711: >>"$3/group"
mount --bind "$3/passwd" /etc/passwd
mount --bind "$3/group" /etc/group
printf '#!/bin/sh\nexit 1\n' >"$3/millrace"
printf '#!/bin/sh\n' >"$3/deb-systemd-invoke"
chmod +x "$3/millrace" "$3/deb-systemd-invoke"
setpriv --reuid millrace --regid millrace --clear-groups sh -c "$2"
touch -d 2026-01-01 /var/spool/root
if MILLRACE_REMOVE_ANYWAY=1 PATH=$3:$PATH sh "$1" remove >&2; then echo removed; else echo refused; fi
for file in /var/spool/root /var/spool/new /var/spool/millrace/keep; do
    if [ -f $file ]; then stat -c '%n %y %U' $file | cut -d ' ' -f 1,2,5; fi
done
`

// TestRemovalFollowsNoLinkOfTheSpoolsUser: what the maintainer script does in the
// spool it does with the rights of the spool's user, for root would follow a link.
func TestRemovalFollowsNoLinkOfTheSpoolsUser(t *testing.T) {
	t.Parallel()
	script, err := filepath.Abs("../debian/millrace.prerm")
	if err != nil {
		t.Fatal(err)
	}
	const untouched = "/var/spool/root 2026-01-01 root\n"
	for plant, want := range map[string]string{
		"ln -s /var/spool/new /var/spool/millrace/keep":  "refused\n" + untouched,
		"ln -s /var/spool/root /var/spool/millrace/keep": "refused\n" + untouched,
	} {
		if got := removed(t, script, plant); !strings.HasPrefix(got, want) || strings.Contains(got, "/var/spool/new") {
			t.Errorf("%s:\n%s", plant, got)
		}
	}
	if got := removed(t, script, "true"); !strings.HasPrefix(got, "removed\n"+untouched+"/var/spool/millrace/keep ") || !strings.HasSuffix(got, " millrace\n") {
		t.Errorf("nothing planted:\n%s", got)
	}
}

func removed(t *testing.T, script, plant string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-euc", removal, "sh", script, plant, t.TempDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr.String())
	}
	return string(out)
}
