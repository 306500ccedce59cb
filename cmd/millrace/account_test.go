package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
)

// Of many addresses that are down some are shown, and all that have sessions.
func TestAccountOfManySilentAddressesIsShort(t *testing.T) {
	t.Parallel()
	a := control.Account{Addresses: []control.Address{{Address: "192.0.2.1:25", Sessions: 7, Held: 8}, {Address: "192.0.2.2:25", Sessions: 1, Held: 1, Down: true}}}
	for i := range 66 {
		a.Addresses = append(a.Addresses, control.Address{Address: fmt.Sprintf("192.0.2.%d:25", 100+i), Held: 1, Down: true})
	}
	var b strings.Builder
	printAccount(&b, &a)
	_, rows, _ := strings.Cut(b.String(), "ADDRESS\n")
	if lines := strings.Split(rows, "\n"); len(lines) != 10 ||
		!strings.Contains(lines[0], "192.0.2.1:25") || !strings.Contains(lines[1], "192.0.2.2:25") || lines[8] != strings.Repeat(" ", 22)+"and 60 more that are down" {
		t.Errorf("%s", b.String())
	}
}
