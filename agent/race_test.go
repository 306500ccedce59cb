package agent_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestPackagesOfOneGoroutineHaveOne: what make race leaves out cannot race. No file of these
// packages, of their tests and of what of ours they import starts a goroutine, knows what would,
// or assigns to a variable of the package, which parallel tests would share.
func TestPackagesOfOneGoroutineHaveOne(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?m)^ONE_GOROUTINE = (.+)$`).FindSubmatch(makefile)
	if list == nil {
		t.Fatal("../Makefile: no line ONE_GOROUTINE")
	}
	seen := make(map[string]bool)
	for _, dir := range strings.Fields(string(list[1])) {
		oneGoroutine(t, dir, true, seen)
	}
}

// concurrent are packages that nobody imports who has one goroutine.
var concurrent = []string{"sync", "sync/atomic", "testing/synctest", "net/http", "net/http/httptest", "golang.org/x/sync/errgroup"}

func oneGoroutine(t *testing.T, dir string, tests bool, seen map[string]bool) {
	t.Helper()
	if seen[dir] {
		return
	}
	seen[dir] = true
	paths, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s has no files: %v", dir, err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	ours := make(map[string]bool) // variables of the package
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") && !tests {
			continue
		}
		file, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, name := range s.(*ast.ValueSpec).Names {
					ours[name.Name] = name.Name != "_"
				}
			}
		}
	}
	for _, file := range files {
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Contains(concurrent, name) {
				t.Errorf("%s: %s is imported: take the package out of ONE_GOROUTINE in Makefile", fset.Position(spec.Pos()), name)
			}
			if of, ok := strings.CutPrefix(name, module); ok {
				oneGoroutine(t, of, false, seen)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				return !strings.HasPrefix(n.Name.Name, "Benchmark") // these run alone
			case *ast.GoStmt:
				t.Errorf("%s: a goroutine is started: take the package out of ONE_GOROUTINE in Makefile", fset.Position(n.Pos()))
			case *ast.AssignStmt:
				for _, to := range n.Lhs {
					if v := assigned(to); n.Tok != token.DEFINE && v != nil && ours[v.Name] && atTop(file, v) {
						t.Errorf("%s: %s is shared by all tests: take the package out of ONE_GOROUTINE in Makefile", fset.Position(n.Pos()), v.Name)
					}
				}
			case *ast.IncDecStmt:
				if v := assigned(n.X); v != nil && ours[v.Name] && atTop(file, v) {
					t.Errorf("%s: %s is shared by all tests: take the package out of ONE_GOROUTINE in Makefile", fset.Position(n.Pos()), v.Name)
				}
			}
			return true
		})
	}
}

// assigned is the variable that an assignment to x changes, or a part of it.
func assigned(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.IndexExpr:
			x = e.X
		case *ast.SelectorExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// atTop reports whether v is no variable of a function. The parser knows those of its file;
// another file's is known by nothing.
func atTop(file *ast.File, v *ast.Ident) bool {
	return v.Obj == nil || file.Scope.Lookup(v.Name) == v.Obj
}
