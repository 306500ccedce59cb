// Package e2e has no code of its own. Its tests run the whole of Millrace, the
// programs as they are built, beside a real Postfix and in front of a fake
// internet, and hold what was sent against what was received. One file is about
// one theme: bytes, envelopes, crashes, trouble, the way home, TLS policies.
//
// They need root and Debian's postfix, opendkim and unbound packages (make deps), and
// run in namespaces of their own, so nothing leaves the machine. With LAB_RACE=1
// the programs carry the race detector, and a race that it finds fails the test
// that caused it. The build tag "long" sends about 1 GB where otherwise 120 MB
// are sent.
package e2e
