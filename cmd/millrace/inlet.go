package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os/user"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/inlet"
)

// inletClients is what still hands its mail to the inlet, as far as it shows on this host: in
// configuration files of known places, and by the connections of this moment. Software that
// keeps its settings in a database (listmonk) shows only while it sends.
type inletClients struct {
	files []string // "/etc/msmtprc:3"
	users []string // "list", or "2 at unix:/run/millrace-inlet/lists", whose users the kernel does not show
}

// clientFiles are where Debian, Fedora and the BSDs have the settings that contrib/inlet tells.
var clientFiles = []string{
	"etc/msmtprc", "etc/mailman3/*.cfg", "etc/phplist/config.php",
	"etc/exim4/exim4.conf", "etc/exim4/exim4.conf.template", "etc/exim4/conf.d/*/*", "etc/exim/exim.conf",
	"etc/smtpd.conf", "etc/mail/smtpd.conf", "etc/opensmtpd/smtpd.conf",
}

// findInletClients looks at the host's files, from the root. With no inlet it looks for those
// of the one that setup shows.
func findInletClients(root fs.FS, in *config.Inlet) inletClients {
	ports, sockets := map[string]bool{}, []string(nil)
	listen := in.Listen
	if !in.On() {
		listen = []string{"inet:" + snippets.Listen + "@127.0.0.1"}
	}
	for _, l := range listen {
		network, addr, err := config.ParseListen(l)
		if err != nil {
			continue
		}
		if network == "unix" {
			sockets = append(sockets, addr)
		} else if _, port, err := net.SplitHostPort(addr); err == nil {
			ports[port] = true
		}
	}
	return inletClients{naming(root, ports, sockets), connected(root, ports, sockets)}
}

// naming lists the lines of clientFiles that have one of the ports, as a word, or of the sockets
// in them, comments left out. A file that cannot be read says nothing.
func naming(root fs.FS, ports map[string]bool, sockets []string) (found []string) {
	var words []string
	for _, socket := range sockets {
		words = append(words, regexp.QuoteMeta(socket))
	}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		words = append(words, `(?:^|[^0-9A-Za-z.])`+port+`(?:[^0-9A-Za-z.]|$)`)
	}
	names := regexp.MustCompile(strings.Join(words, "|"))
	for _, pattern := range clientFiles {
		files, err := fs.Glob(root, pattern)
		if err != nil {
			continue
		}
		for _, file := range files {
			text, err := fs.ReadFile(root, file)
			if err != nil {
				continue
			}
			n := 0
			for line := range bytes.Lines(text) {
				n++
				line = bytes.TrimSpace(line)
				if comment := bytes.HasPrefix(line, []byte("#")) || bytes.HasPrefix(line, []byte(";")) || bytes.HasPrefix(line, []byte("//")); !comment && names.Match(line) {
					found = append(found, fmt.Sprintf("/%s:%d", file, n))
					break
				}
			}
		}
	}
	return found
}

// connected lists who has a connection to one of the ports, on loopback, or sockets: proc(5),
// /proc/net/tcp with the user of the client's end, and /proc/net/unix without.
func connected(root fs.FS, ports map[string]bool, sockets []string) (found []string) {
	uids := map[uint64]bool{}
	for _, name := range []string{"tcp", "tcp6"} {
		for words := range procTable(root, "proc/net/"+name, 8) {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid; 01 is ESTABLISHED.
			to, ok := endpoint(words[2])
			if !ok || words[3] != "01" || !to.Addr().Unmap().IsLoopback() || !ports[strconv.Itoa(int(to.Port()))] {
				continue
			}
			if uid, err := strconv.ParseUint(words[7], 10, 32); err == nil {
				uids[uid] = true
			}
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(uids)) {
		name := strconv.FormatUint(uid, 10)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		found = append(found, name)
	}
	for _, socket := range sockets {
		n := 0
		for words := range procTable(root, "proc/net/unix", 8) {
			// Num RefCount Protocol Flags Type St Inode Path; 02 waits to be accepted, 03 was, and
			// only the server's end has the path. 01 is the listener.
			if (words[5] == "02" || words[5] == "03") && words[7] == socket {
				n++
			}
		}
		if n > 0 {
			found = append(found, fmt.Sprintf("%d at unix:%s", n, socket))
		}
	}
	return found
}

// procTable yields the words of each line of a file that has so many.
func procTable(root fs.FS, file string, words int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		f, err := root.Open(file)
		if err != nil {
			return
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if w := strings.Fields(s.Text()); len(w) >= words && !yield(w) {
				return
			}
		}
	}
}

// endpoint reads an address of /proc/net/tcp: 32-bit words in the machine's order, in
// hexadecimal, a colon and the port.
func endpoint(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(p)), ok
}

// String lists all, "" if there is none: "/etc/msmtprc:3 names it; list is connected".
func (c inletClients) String() string {
	var parts []string
	if len(c.files) > 0 {
		verb := " name it"
		if len(c.files) == 1 {
			verb = " names it"
		}
		parts = append(parts, strings.Join(c.files, ", ")+verb)
	}
	if len(c.users) > 0 {
		parts = append(parts, "connected now: "+strings.Join(c.users, ", "))
	}
	return strings.Join(parts, "; ")
}

// inletWarning is what millrace check says of clients whose mail the inlet does not take, or
// passes to the host for as long as a drain lasts; "" if there is nothing to say.
func inletWarning(root fs.FS, in *config.Inlet, draining bool) string {
	clients := findInletClients(root, in)
	switch {
	case in.On() && draining:
		text := fmt.Sprintf("mail of the inlet's clients goes to %s while the spool is drained", in.Host())
		if s := clients.String(); s != "" {
			text += " (" + s + ")"
		}
		return text + "; remedy: have them send there before Millrace is removed"
	case !in.On() && len(clients.files) > 0:
		return fmt.Sprintf("%s %s port %s, where nobody listens: [inlet] listen is empty; remedy: have such software send to %s, or see millrace setup --inlet",
			strings.Join(clients.files, ", "), plural(len(clients.files), "names", "name"), snippets.Listen, in.Host())
	}
	return ""
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// inletLeft is what keeps Millrace from being removed: clients of the inlet lose the place
// where their mail goes, as the host MTA does. It is nil if there is nothing.
func inletLeft(root fs.FS, in *config.Inlet, file string) error {
	clients := findInletClients(root, in)
	if !in.On() {
		if len(clients.files) == 0 {
			return nil
		}
		return fmt.Errorf("%s still %s port %s, the inlet's; remedy: have such software send to %s", strings.Join(clients.files, ", "),
			plural(len(clients.files), "names", "name"), snippets.Listen, in.Host())
	}
	known := clients.String()
	if known == "" {
		known = "no client of it is known at the moment"
	}
	return fmt.Errorf("the inlet still takes mail at %s (%s); remedy: have its clients send to %s, take listen out of [inlet] in %s, and restart millrace-milter",
		strings.Join(in.Listen, ", "), known, in.Host(), file)
}
