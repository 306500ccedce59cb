// Package e2e has no code of its own. Its tests run the whole of Millrace, the
// programs as they are built, beside a real Postfix or Sendmail and in front of a fake
// internet, and hold what was sent against what was received. One file is about
// one theme: bytes, envelopes and their arguments, sessions, verdicts, restarts,
// crashes, the moments around a verdict (window), what is not ours (inbound),
// the chroot, reused queue ids, what pflogsumm makes of the logs, trouble, the way home and what is handed back, drains,
// bounces and their senders, list software that reads its bounces (mailman),
// TLS policies, real MTAs as receivers and their refusals. A room (room_test.go) is a
// Postfix, both daemons and an internet; a peer (dialogue_test.go) talks to that
// Postfix word by word; a tap stands between Postfix and the milter.
//
// They need root and what make deps installs and unpacks, and
// run in namespaces of their own, so nothing leaves the machine. With LAB_RACE=1
// the programs carry the race detector, and a race that it finds fails the test
// that caused it. The build tag "long" sends about 1 GB where otherwise 120 MB
// are sent, and hands 10,000 messages back under 60 crashes instead of 500 under 6.
package e2e
