package sink

import (
	"net"
	"net/netip"
	"testing"
)

// A client may connect between the listening and our own connection, which then
// waits for an answer that nobody gives.
func TestPlaceInTheQueueMayBeTaken(t *testing.T) {
	t.Parallel()
	ln, err := shortListener(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	filler, err := fill(netip.MustParseAddrPort(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	if filler != nil {
		filler.Close()
		t.Error("there was room for one more")
	}
}
