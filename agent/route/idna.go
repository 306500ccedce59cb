package route

import "golang.org/x/net/idna"

// toALabels turns a lower case name with U-labels into A-labels (RFC 5891, UTS 46).
func toALabels(name string) (string, error) { return idna.Lookup.ToASCII(name) }
