// Package sendmail holds the lines an admin adds to sendmail.mc. They are
// embedded so that the tests run Sendmail with exactly the text that is shipped.
package sendmail

import _ "embed"

// MC are the lines for sendmail.mc: the filter, and the hand-back port on
// 127.0.0.1:10626.
//
//go:embed millrace.mc
var MC string
