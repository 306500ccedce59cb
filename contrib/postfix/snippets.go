// Package postfix holds the lines an admin adds to Postfix's main.cf and
// master.cf. They are embedded so that the tests run Postfix with exactly the
// text that is shipped.
package postfix

import (
	_ "embed"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// MilterOptions are the settings of Millrace among the milters. A milter that
// is down or hangs costs a client five seconds, and then Postfix delivers its mail
// itself; what is long is only the answer to a whole message, for it may be 100
// MB and has to be durable. Many sites have a milter_protocol of 2, from guides to
// old milters: Millrace would then leave everything with the host.
const MilterOptions = "connect_timeout=5s, command_timeout=5s, content_timeout=60s, default_action=accept, protocol=6"

// EarlierMilterOptions are what set-up wrote before, for what it finds on hosts.
const EarlierMilterOptions = "connect_timeout=5s, command_timeout=5s, content_timeout=60s, default_action=accept"

// MainCF are the lines for main.cf.
//
//go:embed main.cf
var MainCF string

// MasterCF is the hand-back service for master.cf, on the socket Socket, and its cleanup
// service.
//
//go:embed master.cf
var MasterCF string

// Names in MasterCF.
const (
	Socket     = "millrace"         // of the hand-back service: public/millrace in the queue directory
	Cleanup    = "handback"         // of its cleanup
	SyslogName = "postfix/handback" // of both
)

// shipped is how MasterCF's hand-back service begins.
const shipped = Socket + " unix n "

// Handback is MasterCF without its explanation, for a relay as [handback] has it: a socket
// of public/, by whatever name, or a loopback endpoint.
func Handback(relay string) (string, error) {
	own := filepath.Base(relay) + " unix n "
	if !strings.HasPrefix(relay, "unix:") {
		host, _, err := net.SplitHostPort(relay)
		if err != nil {
			return "", err
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return "", fmt.Errorf("%s is not a loopback address of this host; give the host that it is of the service of master.cf", relay)
		}
		own = relay + " inet n "
	}
	var b strings.Builder
	for line := range strings.Lines(MasterCF) {
		if !strings.HasPrefix(line, "#") && line != "\n" {
			b.WriteString(strings.Replace(line, shipped, own, 1))
		}
	}
	return b.String(), nil
}
