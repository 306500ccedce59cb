// Package postfix holds the lines an admin adds to Postfix's main.cf and
// master.cf. They are embedded so that the tests run Postfix with exactly the
// text that is shipped.
package postfix

import (
	_ "embed"
	"fmt"
	"net"
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

// MasterCF is the hand-back service for master.cf, on 127.0.0.1:10626, and its cleanup
// service.
//
//go:embed master.cf
var MasterCF string

// shipped is the port of MasterCF.
const shipped = "127.0.0.1:10626"

// Handback is MasterCF without its explanation, at another loopback endpoint.
func Handback(endpoint string) (string, error) {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("%s is not a loopback address of this host; give the host that it is of the service of master.cf", endpoint)
	}
	var b strings.Builder
	for line := range strings.Lines(MasterCF) {
		if !strings.HasPrefix(line, "#") && line != "\n" {
			b.WriteString(strings.ReplaceAll(line, shipped, endpoint))
		}
	}
	return b.String(), nil
}
