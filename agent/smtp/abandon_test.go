package smtp

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
)

// A transaction that stalls may be given up as long as its message cannot have been
// accepted, and not after.
func TestStalledTransactionIsAbandonedBeforeItsDotOnly(t *testing.T) {
	t.Parallel()
	for _, stage := range []Stage{StageMail, StageRcpt, StageData, StageDot} {
		t.Run(stage.String(), func(t *testing.T) {
			t.Parallel()
			reached, release := make(chan struct{}), make(chan struct{})
			addr := listen(t, func(nc net.Conn) {
				stageServer(stage, func(nc net.Conn, _ *bufio.Reader) {
					close(reached)
					<-release
					io.WriteString(nc, "250 ok\r\n")
					io.Copy(io.Discard, nc)
				})(nc)
			})
			c, err := Dial(t.Context(), addr, Options{Hello: "client.example", Timeouts: patient()})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Abandon() {
				t.Error("abandoned, though nothing was under way")
			}
			given := make(chan bool, 1)
			go func() {
				<-reached
				given <- c.Abandon()
				close(release)
			}()
			res, err := c.Send(t.Context(), message("s@a.example", "r@b.example"))
			if abandoned := <-given; abandoned == (stage == StageDot) {
				t.Errorf("abandoned: %v", abandoned)
			}
			fate, want := res.Recipients[0].Fate, NotOffered
			if stage == StageDot {
				want = Accepted
			}
			if fate != want || errors.Is(err, ErrAbandoned) != (stage != StageDot) {
				t.Errorf("%v, %v", fate, err)
			}
		})
	}
}
