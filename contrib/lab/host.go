package lab

import "context"

// Host is an MTA with our milter before it, a Postfix or a Sendmail, or one that offers its
// mail to our inlet.
type Host interface {
	// SMTPAddr is the port where any loopback client may relay, through the
	// milter.
	SMTPAddr() string
	// HandbackAddr is where mail comes back, as [handback] relay has it.
	HandbackAddr() string
	// MilterSocket is the path where the MTA looks for the milter's socket.
	MilterSocket() string
	// LocalDomains are those whose mail is delivered into the mailbox.
	LocalDomains() []string

	// Start starts an MTA again after Kill or Halt, with its queue as it was
	// left. Kill is the crash of all its processes, Halt the orderly stop. Stop
	// kills what runs and removes everything.
	Start(ctx context.Context) error
	Kill()
	Halt() error
	Stop() error

	// Log is the path of the log.
	Log() string
	// QueueLength is the number of messages in the queue.
	QueueLength(ctx context.Context) (int, error)
	// Flush makes the MTA try what is deferred.
	Flush(ctx context.Context) error
	// Sendmail hands a message in to sendmail(1).
	Sendmail(ctx context.Context, from string, rcpts []string, msg []byte) error
	// Mailbox returns the local copies for one address, oldest first.
	Mailbox(addr string) ([]Message, error)
}

var (
	_ Host = (*Postfix)(nil)
	_ Host = (*Sendmail)(nil)
)
