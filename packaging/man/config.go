package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"unicode"

	"github.com/millrace/millrace/packaging/man/roff"
)

// structs are the documented types of the configuration, by name.
type structs map[string]*ast.StructType

// configuration writes millrace.toml(5) from the source of agent/config: the
// struct tag of a field is the key, its comment the explanation.
func configuration(dir string) ([]byte, error) {
	types, docs := structs{}, map[string]string{}
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				if t, ok := s.(*ast.TypeSpec); ok {
					if st, ok := t.Type.(*ast.StructType); ok {
						types[t.Name.Name], docs[t.Name.Name] = st, g.Doc.Text()
					}
				}
			}
		}
	}
	var b bytes.Buffer
	w := roff.Writer{Out: &b}
	w.Title("millrace.toml", 5)
	w.Head("NAME")
	w.Text("millrace.toml - configuration of Millrace")
	w.Head("SYNOPSIS")
	w.Text("/etc/millrace/millrace.toml\n\n/etc/millrace/conf.d/*.toml")
	w.Head("DESCRIPTION")
	w.Text(`The configuration of millrace-milter, millrace-agent and millrace is one file in TOML, and the files of conf.d beside it, merged in the order of their names. A key may be set in one file only; a domain may be listed in one queue only. SIGHUP makes the daemons read it anew; a file that cannot be used leaves the old configuration in force. "millrace check" says beforehand what is wrong, with file, line and remedy.

Sizes are written "500MB" or "1GiB", times "90s", "4h30m" or "5d", rates "100/s", "600/m" or "5000/h".`)
	if err := types.table(w, docs, "Config", ""); err != nil {
		return nil, err
	}
	w.Head("FILES")
	w.Term("/etc/millrace/conf.d/", "The lists of the big providers come with the package; host.toml is written by millrace setup.")
	w.Term("/usr/share/millrace/replies.toml", "The built-in [[reply]] tables, with a sample of each reply.")
	w.Head("SEE ALSO")
	w.Text("millrace(1), millrace(7), millrace-agent(8), millrace-milter(8)")
	return b.Bytes(), nil
}

// heads are the tables whose name in a file is not their path.
var heads = map[string]string{
	"general": "[general] and [[queue]]", "milter.rule": "[[milter.rule]]", "reply": "[[reply]]", "pool": "[[pool]]", "warmup": "[[warmup]]", "stream": "[[stream]]", "webhook": "[[webhook]]", "dkim": "[[dkim]]",
}

// table explains the keys of a struct, then its tables.
func (types structs) table(w roff.Writer, docs map[string]string, name, path string) error {
	st, ok := types[name]
	if !ok {
		return fmt.Errorf("there is no type %s", name)
	}
	head := "TOP LEVEL"
	if path != "" {
		head = "[" + path + "]"
		if h, ok := heads[path]; ok {
			head = h
		}
	}
	w.Head(head)
	w.Text(sentence(docs[name]))
	type sub struct{ typ, path string }
	var subs []sub
	shared := "" // two keys with one explanation
	for _, f := range st.Fields.List {
		key := tag(f)
		if key == "" || key == "-" {
			continue
		}
		if typ := structName(f.Type); types[typ] != nil && hasKeys(types[typ]) {
			p := key
			if path != "" {
				p = path + "." + key
			}
			if p != "queue" { // is explained with [general]
				subs = append(subs, sub{typ, p})
			}
			continue
		}
		text := f.Doc.Text()
		if text == "" {
			text = shared
		}
		if text == "" {
			return fmt.Errorf("%s.%s is not documented", name, key)
		}
		shared = text
		w.Term(key, upper(strings.TrimPrefix(renamed(text, st), key+" is ")))
	}
	for _, s := range subs {
		if err := types.table(w, docs, s.typ, s.path); err != nil {
			return err
		}
	}
	return nil
}

func hasKeys(st *ast.StructType) bool {
	for _, f := range st.Fields.List {
		if key := tag(f); key != "" && key != "-" {
			return true
		}
	}
	return false
}

// tag is a field's key in a file.
func tag(f *ast.Field) string {
	if f.Tag == nil {
		return ""
	}
	text, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return ""
	}
	return reflect.StructTag(text).Get("toml")
}

// structName is the name of a field's type, or of its elements.
func structName(e ast.Expr) string {
	switch t := e.(type) {
	case *ast.Ident:
		return t.Name
	case *ast.ArrayType:
		return structName(t.Elt)
	}
	return ""
}

// renamed puts the keys in the place of the fields' Go names.
func renamed(text string, st *ast.StructType) string {
	var pairs []string
	for _, f := range st.Fields.List {
		if key := tag(f); key != "" && key != "-" {
			pairs = append(pairs, f.Names[0].Name, key)
		}
	}
	var out strings.Builder
	for word := range strings.SplitSeq(mark(text), "\x00") {
		for n := 0; n < len(pairs); n += 2 {
			if word == pairs[n] {
				word = pairs[n+1]
				break
			}
		}
		out.WriteString(word)
	}
	return out.String()
}

// mark separates words from what is between them by NUL.
func mark(text string) string {
	var b strings.Builder
	in := false
	for _, r := range text {
		if word := unicode.IsLetter(r) || unicode.IsDigit(r); word != in {
			b.WriteByte(0)
			in = word
		}
		b.WriteRune(r)
	}
	return b.String()
}

// sentence is a type's comment without its Go name: "Spool says where ..." becomes
// "Says where ...".
func sentence(doc string) string {
	_, rest, ok := strings.Cut(doc, " ")
	if !ok || rest == "" {
		return ""
	}
	return upper(rest)
}

func upper(s string) string {
	r := []rune(s)
	r[0] = unicode.ToUpper(r[0])
	return string(r)
}
