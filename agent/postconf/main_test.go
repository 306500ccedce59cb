package postconf

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/contrib/lab/tidy"
)

func TestMain(m *testing.M) {
	ask = remembered
	tidy.Main(m)
}

// answers are what postconf said of a configuration's texts, without the directory's name. A
// test reads each state of a host several times over, and starting postconf is what costs.
var answers sync.Map

// remembered runs postconf once for the same question about the same texts.
func remembered(ctx context.Context, args []string) (string, error) {
	i := slices.Index(args, "-c")
	if i < 0 {
		return postconf(ctx, args)
	}
	dir := args[i+1]
	var key strings.Builder
	for _, text := range args[i+2:] {
		key.WriteString(text + "\x00")
	}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil { // what postconf says of that is of interest
			return postconf(ctx, args)
		}
		key.WriteString(strings.ReplaceAll(string(text), dir, "\x01") + "\x00")
	}
	if said, ok := answers.Load(key.String()); ok {
		return strings.ReplaceAll(said.(string), "\x01", dir), nil
	}
	out, err := postconf(ctx, args)
	if err == nil {
		answers.Store(key.String(), strings.ReplaceAll(out, dir, "\x01"))
	}
	return out, err
}
