// Package postfix holds the lines an admin adds to Postfix's main.cf and
// master.cf. They are embedded so that the tests run Postfix with exactly the
// text that is shipped.
package postfix

import _ "embed"

// MainCF are the lines for main.cf.
//
//go:embed main.cf
var MainCF string

// MasterCF is the hand-back service for master.cf, on 127.0.0.1:10626.
//
//go:embed master.cf
var MasterCF string
