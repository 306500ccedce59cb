package inlet_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// BenchmarkSpooled hands in bulk over eight connections. Its time a message is that of the
// client, the inlet and the disk together.
func BenchmarkSpooled(b *testing.B) {
	for _, size := range []int{8 << 10, 100 << 10} {
		b.Run(fmt.Sprintf("%dKB", size>>10), func(b *testing.B) {
			s := serve(b)
			line := []byte("This is a line of a newsletter, and it has seventy-two octets in all..\r\n")
			content := append([]byte(text), bytes.Repeat(line, size/len(line))...)
			message := append([]byte("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"), byDATA(content)...)
			split := bytes.Index(message, []byte("DATA\r\n")) + 6
			b.SetBytes(int64(size))
			b.ResetTimer()
			var n atomic.Int64
			done := make(chan error)
			const clients = 8
			for range clients {
				go func() {
					c, err := net.Dial("tcp4", s.addr)
					if err != nil {
						done <- err
						return
					}
					defer c.Close()
					buf := make([]byte, 4<<10)
					until := func(end string) error {
						for got := 0; ; {
							k, err := c.Read(buf[got:])
							if err != nil {
								return err
							}
							if got += k; bytes.Contains(buf[:got], []byte(end)) && buf[got-1] == '\n' {
								return nil
							}
						}
					}
					io.WriteString(c, "EHLO x\r\n")
					err = until("250 CHUNKING")
					for n.Add(1) <= int64(b.N) && err == nil {
						c.Write(message[:split])
						if err = until("354 "); err == nil {
							c.Write(message[split:])
							err = until("queued")
						}
					}
					done <- err
				}()
			}
			for range clients {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.StopTimer()
			s.stop()
		})
	}
}
