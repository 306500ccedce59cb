// Package lab runs real programs in a closed room: a private Postfix, the
// Millrace daemons and whatever else a test, the demo or a benchmark wants to
// see together. Nothing in the room can reach the outside, and nothing of it
// is left when it closes.
//
// The room is made of Linux namespaces. [Isolate] runs the current program again with a
// network that has a loopback interface and nothing else, with a resolv.conf that names
// 127.0.0.1, and as process 1 of all it starts. Every port is free there, so receivers
// listen on port 25 of as many 127.x.y.z addresses as they like, and a DNS server on
// 127.0.0.1:53 makes the internet. Postfix and Millrace both look it up the way they do
// on a real host: MX records and port 25, no transport map. Mail cannot leave by
// construction, not by configuration. Programs call [Main], tests tidy.Main.
//
// Inside, calls follow each other like this:
//
//	func TestMain(m *testing.M) { tidy.Main(m, lab.WithPrograms) }
//
//	p, err := lab.StartPostfix(ctx, lab.PostfixOptions{Milter: "unix:" + sock})
//	defer p.Stop()                       // kills what runs, removes the directory
//	c, err := lab.Dial(ctx, p.SMTPAddr())
//	reply, err := c.Send(ctx, from, rcpts, msg)
//	copies, err := p.Mailbox("user@lab.test")
//
// Package rig puts these parts together where a test needs more than a Postfix. The
// packages beside it are the other parts: the internet (sink), the mail (inject), the
// account of it (ledger, repeats), and what stands between two programs (proxy).
//
// The lab needs Linux, root and Debian's postfix package; it never reads or
// writes /etc/postfix, /var/spool/postfix or a running instance. Sendmail, Exim
// and OpenSMTPD cannot be installed beside Postfix, and Mailman and Sympa would bring
// services of their own: contrib/lab/deps/unpack lays their files aside, and each instance runs in
// a root of its own, made of these files over those of the machine.
package lab
