package metrics

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/millrace/millrace/agent/event"
)

// TestEachStatusHasItsSeries reads package event: a status that is added there is not
// to end among the others.
func TestEachStatusHasItsSeries(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../event/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Status" || len(spec.Values) != 1 {
				return true
			}
			literal, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s: %s is no literal", file, spec.Names[0])
			}
			text, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			found++
			if !slices.Contains(statuses[:], event.Status(text)) {
				t.Errorf("event.%s is missing in statuses", spec.Names[0])
			}
			return true
		})
	}
	if found < len(statuses) {
		t.Errorf("%d statuses found, %d have series", found, len(statuses))
	}
}
