package postconf

import (
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }
