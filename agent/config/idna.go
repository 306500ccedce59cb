package config

import "golang.org/x/net/idna"

// toALabels turns U-labels into A-labels, folding case (RFC 5891, UTS 46).
func toALabels(name string) (string, error) { return idna.Lookup.ToASCII(name) }
