package lab

import (
	"os"
	"strconv"

	"github.com/millrace/millrace/contrib/lab/sockets"
)

// ports are those that were chosen for a server. They stay its own until release, also
// before it has come to listen and while it is stopped.
type ports []*os.File

// on is a port on a loopback address, or for 0 a free one.
func (p *ports) on(loopback string, port int) (string, error) {
	if port != 0 {
		return loopback + ":" + strconv.Itoa(port), nil
	}
	f, addr, err := sockets.Reserve(loopback + ":0")
	if err != nil {
		return "", err
	}
	*p = append(*p, f)
	return addr, nil
}

// free is a free port on 127.0.0.1.
func (p *ports) free() (string, error) { return p.on("127.0.0.1", 0) }

func (p *ports) release() {
	for _, f := range *p {
		f.Close()
	}
	*p = nil
}
