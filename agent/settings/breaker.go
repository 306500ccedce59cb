package settings

import (
	"github.com/millrace/millrace/agent/breaker"
	"github.com/millrace/millrace/agent/config"
)

// BreakerPolicy is what the breaker holds streams for, and whom it tells.
func BreakerPolicy(c *config.Config) breaker.Policy {
	return breaker.Policy{
		Bars:   breaker.Bars{HardBounces: float64(c.Breaker.HardBounces), Complaints: float64(c.Breaker.Complaints)},
		Notify: c.Breaker.Notify, Hostname: c.Hostname,
	}
}
