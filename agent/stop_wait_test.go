package agent

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// TestStopOutlastsReceiversThatThink holds the time that a stop gives to transactions between
// what receivers take over the final dot and what the service manager gives to the stop.
func TestStopOutlastsReceiversThatThink(t *testing.T) {
	t.Parallel()
	const think, rest = 45 * time.Second, 15 * time.Second
	unit, err := os.ReadFile("../packaging/systemd/millrace-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindSubmatch(unit)
	if m == nil {
		t.Fatal("the unit has no TimeoutStopSec= in seconds")
	}
	limit, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	if finish <= think+10*time.Second || finish > time.Duration(limit)*time.Second-rest {
		t.Errorf("transactions get %v: receivers take %v, and the unit gives the whole stop %d s", finish, think, limit)
	}
}
