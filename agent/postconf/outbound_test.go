package postconf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// TestSourceIsTheAddressPostfixBindsTo: inet_interfaces needs addresses that the
// host has, so postconf is not asked here.
func TestSourceIsTheAddressPostfixBindsTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		interfaces, bind, sources, protocols string
		want                                 []string // remedies
	}{
		{"all", "", "", "ipv4 ipv6", nil},
		{"loopback-only", "", "", "ipv4", nil},
		{"127.0.0.1", "", "", "ipv4", nil},
		{"mail.example.com", "", "", "ipv4", nil},
		{"192.0.2.7", "", "", "ipv4", []string{`["192.0.2.7"]`}},
		{"192.0.2.7", "", "192.0.2.7", "ipv4", nil},
		{"192.0.2.7", "", "192.0.2.6 192.0.2.7", "ipv4", nil},
		{"192.0.2.7, 192.0.2.8", "", "", "ipv4", nil},
		{"192.0.2.7, [2001:db8::7]", "", "", "ipv4 ipv6", []string{`["192.0.2.7"]`, `["2001:db8::7"]`}},
		{"192.0.2.7, [2001:db8::7]", "", "2001:db8::1", "ipv4 ipv6", []string{`["192.0.2.7", "2001:db8::1"]`, `["2001:db8::7"]`}},
		{"192.0.2.7, 2001:db8::7", "", "", "ipv6", []string{`["2001:db8::7"]`}},
		{"192.0.2.7", "192.0.2.1", "", "ipv4", []string{`["192.0.2.1"]`}},
		{"all", "192.0.2.1", "192.0.2.1", "ipv4", nil},
	} {
		p := &Postfix{main: map[string]string{"inet_interfaces": c.interfaces, "smtp_bind_address": c.bind}}
		cfg := &config.Config{Agent: config.Agent{Protocols: strings.Fields(c.protocols)}}
		for _, s := range strings.Fields(c.sources) {
			cfg.Agent.SourceAddresses = append(cfg.Agent.SourceAddresses, netip.MustParseAddr(s))
		}
		remedies := func() (got []string) {
			for _, f := range p.source(cfg, nil) {
				got = append(got, strings.TrimPrefix(f.Remedy, "set [agent] source_addresses = "))
			}
			return got
		}
		got := remedies()
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
		cfg.General.Pool, cfg.Queues = "news", []config.Queue{{Name: "a"}}
		if got := remedies(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, where a queue names no pool", c, got)
		}
		cfg.Queues[0].Pool = "news"
		if got := remedies(); got != nil {
			t.Errorf("%+v: %q, where all queues name a pool", c, got)
		}
	}
}

// Each parameter that smtp(8) has is compared with ours or carried over, is named by check
// where it was changed, or is known to be without meaning here.
func TestEveryParameterOfSMTPIsAccountedFor(t *testing.T) {
	t.Parallel()
	path, err := findPostconf()
	if err != nil {
		t.Fatal(err)
	}
	text, err := postconf(t.Context(), append(path, "-d"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]string)
	for how, names := range map[string]string{
		"compared or carried over": "smtp_bind_address smtp_bind_address6 smtp_helo_name smtp_generic_maps smtp_tls_security_level smtp_use_tls smtp_enforce_tls" +
			" smtp_tls_policy_maps smtp_tls_per_site smtp_destination_concurrency_limit smtp_destination_recipient_limit smtp_destination_rate_delay",
		"how Postfix plans its own queue": "smtp_delivery_slot_cost smtp_delivery_slot_discount smtp_delivery_slot_loan smtp_minimum_delivery_slots" +
			" smtp_destination_concurrency_failed_cohort_limit smtp_destination_concurrency_negative_feedback smtp_destination_concurrency_positive_feedback" +
			" smtp_initial_destination_concurrency smtp_extra_recipient_limit smtp_recipient_limit smtp_recipient_refill_delay smtp_recipient_refill_limit",
		"which address is called, and how often": "smtp_randomize_addresses smtp_balance_inet_protocols smtp_mx_address_limit smtp_mx_session_limit smtp_bind_address_enforce",
		"connections that are kept": "smtp_connection_cache_destinations smtp_connection_cache_on_demand smtp_connection_cache_time_limit smtp_connection_reuse_count_limit" +
			" smtp_connection_reuse_time_limit smtp_skip_quit_response smtp_quit_timeout smtp_rset_timeout smtp_tls_connection_reuse smtp_tls_session_cache_database smtp_tls_session_cache_timeout",
		"only mail that stays with Postfix": "smtp_line_length_limit smtp_quote_rfc821_envelope smtp_address_verify_target smtp_send_xforward_command smtp_xforward_timeout smtp_send_dummy_mail_auth" +
			" smtp_requiretls_policy",
		"details of what is named by another": "smtp_pix_workaround_delay_time smtp_pix_workaround_threshold_time smtp_sasl_auth_cache_name smtp_sasl_auth_cache_time smtp_sasl_auth_soft_bounce" +
			" smtp_sasl_mechanism_filter smtp_sasl_password_maps smtp_sasl_path smtp_sasl_security_options smtp_sasl_tls_security_options smtp_sasl_tls_verified_security_options smtp_sasl_type" +
			" smtp_sasl_password_result_delimiter smtp_tls_fingerprint_digest smtp_tls_scert_verifydepth smtp_tls_enforce_peername smtp_dns_support_level smtp_tls_dane_insecure_mx_policy" +
			" smtp_tls_force_insecure_host_tlsa_lookup smtp_cname_overrides_servername",
		"what is logged or watched for": "smtp_tls_loglevel smtp_tls_note_starttls_offer smtp_tls_block_early_mail_reply smtp_log_tls_feature_status smtp_tlsrpt_enable smtp_tlsrpt_socket_name smtp_tlsrpt_skip_reused_handshakes",
	} {
		for name := range strings.FieldsSeq(names) {
			known[name] = how
		}
	}
	for _, x := range differences {
		for _, name := range x.parameters {
			if how, twice := known[name]; twice {
				t.Errorf("%s is named, and %s", name, how)
			}
			known[name] = "named"
		}
	}
	n := 0
	for name := range parameters(text) {
		if strings.HasPrefix(name, "smtp_") {
			if n++; known[name] == "" {
				t.Errorf("%s: nobody knows what it means for diverted mail", name)
			}
		}
	}
	if n < 100 {
		t.Errorf("%d parameters", n)
	}
}

// What nobody has changed is not named, and what was changed is, once.
func TestChangedParametersOfSMTPAreNamed(t *testing.T) {
	t.Parallel()
	defaults := map[string]string{"smtp_data_done_timeout": "600s", "smtp_tls_protocols": ">=TLSv1", "smtp_never_send_ehlo": "no", "smtp_sasl_auth_enable": "no", "smtp_tcp_port": "smtp"}
	changed := map[string]string{
		"smtp_data_done_timeout": "1200s", "smtp_tls_protocols": ">=TLSv1.2", "smtp_never_send_ehlo": "yes", "smtp_sasl_auth_enable": "yes", "smtp_tcp_port": "2525",
		"smtp_tls_cert_file": "/etc/ssl/client.pem", "smtp_tls_key_file": "/etc/ssl/client.pem", "smtp_tls_CApath": "/etc/ssl/certs",
	}
	c := &config.Config{Agent: config.Agent{Port: 25}}
	for _, tt := range []struct {
		main map[string]string
		want []string
	}{
		{defaults, nil},
		{changed, []string{"smtp_data_done_timeout", "smtp_tls_protocols", "smtp_never_send_ehlo", "smtp_sasl_auth_enable", "smtp_tcp_port", "smtp_tls_cert_file"}},
	} {
		p := &Postfix{main: tt.main, defaults: defaults}
		var got []string
		for _, f := range p.changes(c) {
			name, _, _ := strings.Cut(f.Wrong, " ")
			got = append(got, name)
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v, want %v", got, tt.want)
		}
	}
}
