// Package peer is how the nodes of a fleet speak to each other: HTTP/1.1 over TLS 1.3, in
// which both sides show a certificate of the fleet's authority.
//
// # Who is let in
//
// The authority (tls_ca_file of [fleet]) is the fleet's own. A certificate is a node's if
//
//   - it holds under that authority, today, for the use that is made of it (RFC 5280 section
//     4.2.1.12; one that names no use is good for any);
//   - exactly one of its DNS names is the name of a member: that is who calls, or is called;
//   - it names no other fleet. A certificate may name its fleet by a URI "millrace:FLEET"
//     among its alternative names. Where this node's own certificate does so, all others
//     must: so an authority may serve several fleets whose nodes have the same names.
//
// Who calls says in the handshake, as the name of the server (SNI, RFC 6066 section 3), which
// node of which fleet he means: "NODE.FLEET". Another node at that address, a node of
// another fleet, and whoever does not know the name end the handshake before a certificate is
// shown. TLS 1.3 then shows the server's before it sees the client's: beyond that a stranger
// learns nothing. His connection never reaches HTTP. Whoever is a member no longer, and whose
// certificate has ended meanwhile, is refused with his next request.
//
// # What a member may use up
//
// Members trust each other with what the handlers give, not with their resources: connections
// of each, heads and bodies of requests are bounded, and every read and write has a deadline.
//
// # How its calls follow each other
//
//	id := peer.NewIdentity(peer.Files{...})     // files are read again when they change
//	s := peer.NewServer(peer.ServerOptions{...})
//	s.Handle("GET /v1/marks", handler)          // before Run or later; NodeOf tells who asks
//	go s.Run(ctx)                               // listens, again and again until it can
//	c := peer.NewClient(peer.ClientOptions{...})
//	resp, err := c.Do(ctx, "b", http.MethodGet, "/v1/marks", nil)
//
// Nothing here ends an agent: what does not work is told by Trouble, and is tried again.
package peer
