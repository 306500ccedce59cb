// Package inlet holds what is to be set in list software and in MTAs without a milter, so that
// their bulk mail comes to Millrace's inlet. It is embedded so that "millrace setup --inlet"
// shows, and the tests run, exactly the text that is shipped.
//
// The texts have the addresses of packaging's millrace.toml: 127.0.0.1 port 8825 is [inlet]
// listen. Port 10625 is [inlet] pass_to and 10626 [handback] relay, where Exim and OpenSMTPD
// take mail that they must not offer to the inlet again.
package inlet

import (
	_ "embed"
	"strings"
)

// Clients are the settings of list software and mailers.
//
//go:embed clients.txt
var Clients string

// Exim are the lines for Exim 4, with the places they belong to.
//
//go:embed exim4.conf
var Exim string

// OpenSMTPD are the lines for smtpd.conf, with the places they belong to.
//
//go:embed smtpd.conf
var OpenSMTPD string

// Ports of the texts.
const (
	Listen   = "8825"  // of [inlet] listen
	Pass     = "10625" // of [inlet] pass_to
	Handback = "10626" // of [handback] relay
)

// Part is what stands between "# begin NAME" and "# end NAME" of a text; "" if there is no such.
func Part(text, name string) string {
	_, after, ok := strings.Cut(text, "# begin "+name+"\n")
	part, _, ended := strings.Cut(after, "# end "+name+"\n")
	if !ok || !ended {
		return ""
	}
	return part
}

// At replaces the ports of a text by others; "" leaves one as it is.
func At(text, listen, pass, handback string) string {
	var pairs []string
	for _, p := range [][2]string{{Listen, listen}, {Pass, pass}, {Handback, handback}} {
		if p[1] != "" {
			pairs = append(pairs, p[0], p[1])
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}
