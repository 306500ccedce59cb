package postconf

import (
	"testing"

	"github.com/millrace/millrace/contrib/lab/tidy"
)

func TestMain(m *testing.M) { tidy.Main(m) }
