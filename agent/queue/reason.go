package queue

import "github.com/millrace/millrace/agent/printable"

// maxReason bounds what an error may say in a listing, in octets; a policy of a domain that
// is quoted in it may have 64 KiB.
const maxReason = 1024

// ReasonOf is an error as the queue keeps it for listings: one printable line.
func ReasonOf(err error) string { return printable.Cut(err.Error(), maxReason) }
