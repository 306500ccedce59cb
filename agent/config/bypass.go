package config

import (
	"fmt"
	"slices"
	"strings"
)

// Bypasses are the names that [milter] accept_bypass may have: parameters of
// Postfix that act on a message after our milter, or on its envelope, and so
// never on diverted mail. A name of smtpd's restrictions stands for the access
// maps in that list; smtpd_milters and non_smtpd_milters for milters after ours.
func Bypasses() []string {
	return []string{
		"virtual_alias_maps", "canonical_maps", "sender_canonical_maps", "recipient_canonical_maps",
		"masquerade_domains", "relocated_maps", "smtp_generic_maps",
		"sender_dependent_default_transport_maps", "sender_dependent_relayhost_maps",
		"always_bcc", "sender_bcc_maps", "recipient_bcc_maps",
		"header_checks", "mime_header_checks", "nested_header_checks", "body_checks", "milter_header_checks",
		"smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions",
		"smtpd_relay_restrictions", "smtpd_recipient_restrictions", "smtpd_data_restrictions",
		"smtpd_end_of_data_restrictions",
		"content_filter", "smtpd_proxy_filter", "smtpd_milters", "non_smtpd_milters",
	}
}

func (l *loader) checkBypasses(accepted []string) {
	for i, name := range accepted {
		if !slices.Contains(Bypasses(), name) {
			l.failElement("milter.accept_bypass", i, remedy(fmt.Sprintf("accept_bypass: %q is unknown", name),
				"known names are "+strings.Join(Bypasses(), ", ")))
		}
	}
}
