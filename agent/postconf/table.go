package postconf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// entry is one entry of a lookup table.
type entry struct {
	key     string
	pattern bool // key is a pattern: it may stand for anything
	result  string
}

// maxTable bounds the text of one table that is looked into, in octets.
const maxTable = 16 << 20

// table gives the entries of a lookup table ("type:name", see DATABASE_README),
// or an error that says why they are not known. Nothing is run for it, and no
// database opened; what can be read is
//
//   - inline: and static:, which stand in main.cf itself;
//   - texthash:, cidr:, pcre: and regexp:, files of text, or inline in braces;
//   - hash:, btree:, cdb:, dbm:, lmdb: and sdbm: by the text that postmap(1) made
//     them of, if it is there beside the database and not younger than it;
//   - any of these behind proxy:.
func (p *Postfix) table(name string) ([]entry, error) {
	kind, rest, ok := strings.Cut(name, ":")
	if !ok {
		kind, rest = p.main["default_database_type"], name
	}
	inside, braced := inBraces(rest)
	switch kind {
	case "proxy":
		return p.table(rest)
	case "static":
		if braced {
			rest = inside
		}
		return []entry{{pattern: true, result: rest}}, nil
	case "inline":
		if !braced {
			return nil, errors.New("not understood")
		}
		return inline(inside)
	case "texthash":
		return p.text(rest, plain)
	case "hash", "btree", "cdb", "dbm", "lmdb", "sdbm":
		if err := p.fresh(rest, kind); err != nil {
			return nil, err
		}
		return p.text(rest, plain)
	case "cidr":
		if braced {
			return parseLines(list(inside), network)
		}
		return p.text(rest, network)
	case "pcre", "regexp":
		if braced {
			return parseLines(list(inside), expression)
		}
		return p.text(rest, expression)
	}
	return nil, fmt.Errorf("%s tables are not looked into", kind)
}

// inline reads "key=value, { key = value with blanks }".
func inline(text string) ([]entry, error) {
	var entries []entry
	for _, e := range list(text) {
		key, result, ok := strings.Cut(e, "=")
		if !ok {
			return nil, errors.New("not understood")
		}
		entries = append(entries, entry{key: strings.TrimSpace(key), result: strings.TrimSpace(result)})
	}
	return entries, nil
}

// text reads a table from a file.
func (p *Postfix) text(file string, parse func(line string) (entry, bool)) ([]entry, error) {
	info, err := p.stat(file)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // reading a pipe might never end
		return nil, errors.New("not a file")
	case info.Size() > maxTable:
		return nil, errors.New("too large to be looked into")
	}
	content, err := fs.ReadFile(p.files, strings.TrimPrefix(file, "/"))
	if err != nil {
		return nil, cause(err)
	}
	return parseLines(logicalLines(string(content)), parse)
}

func (p *Postfix) stat(file string) (fs.FileInfo, error) {
	if !path.IsAbs(file) {
		return nil, errors.New("not an absolute path")
	}
	info, err := fs.Stat(p.files, strings.TrimPrefix(path.Clean(file), "/"))
	return info, cause(err)
}

// cause is an error without the path, which the message has already.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// fresh says why the text of an indexed table does not tell what the table has:
// the database is what Postfix reads.
func (p *Postfix) fresh(file, kind string) error {
	source, err := p.stat(file)
	if err != nil {
		return err
	}
	suffix := map[string]string{"hash": ".db", "btree": ".db", "cdb": ".cdb", "lmdb": ".lmdb"}[kind]
	if suffix == "" {
		suffix = ".pag" // of dbm and sdbm; .dir is made with it
	}
	built, err := p.stat(file + suffix)
	if err != nil {
		return fmt.Errorf("%s: %w", path.Base(file)+suffix, err)
	}
	if built.ModTime().Before(source.ModTime()) {
		return fmt.Errorf("%s is older than its text; run postmap", path.Base(file)+suffix)
	}
	return nil
}

// logicalLines are the lines of a table: comments and empty lines left out, and
// a line that begins with a blank joined to the one before (postmap(1)).
func logicalLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case (line[0] == ' ' || line[0] == '\t') && len(lines) > 0:
			lines[len(lines)-1] += line
		default:
			lines = append(lines, trimmed)
		}
	}
	return lines
}

// parseLines reads entries. One line that is not understood may be any entry,
// so then nothing is known.
func parseLines(lines []string, parse func(line string) (entry, bool)) ([]entry, error) {
	var entries []entry
	for _, line := range lines {
		e, ok := parse(line)
		if !ok {
			return nil, fmt.Errorf("%q is not understood", line)
		}
		if e.result != "" {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// plain reads "key result".
func plain(line string) (entry, bool) {
	key, result := cutBlank(line)
	return entry{key: key, result: result}, result != ""
}

// network reads "192.0.2.0/24 result" of cidr_table(5).
func network(line string) (entry, bool) {
	if narrows(line) {
		return entry{}, true
	}
	key, result := cutBlank(strings.TrimSpace(strings.TrimPrefix(line, "!")))
	return entry{key: key, pattern: true, result: result}, result != ""
}

// narrows reports whether a line of cidr_table(5) and its kin has no result of
// its own: it only narrows what others match.
func narrows(line string) bool {
	word, _ := cutBlank(line)
	return strings.EqualFold(word, "if") || strings.EqualFold(word, "endif")
}

// expression reads "/pattern/flags result" of pcre_table(5) and regexp_table(5).
// Any character may stand for the slash. Flags are letters.
func expression(line string) (entry, bool) {
	if narrows(line) {
		return entry{}, true
	}
	line = strings.TrimSpace(strings.TrimPrefix(line, "!"))
	if line == "" {
		return entry{}, false
	}
	end := 1
	for ; end < len(line) && line[end] != line[0]; end++ {
		if line[end] == '\\' {
			end++
		}
	}
	if end >= len(line) {
		return entry{}, false
	}
	flags, result := cutBlank(line[end+1:])
	if strings.Trim(strings.ToLower(flags), "abcdefghijklmnopqrstuvwxyz") != "" {
		return entry{}, false // regexp has "/one/!/other/" too, of old
	}
	return entry{key: line[:end+1], pattern: true, result: result}, result != ""
}

func cutBlank(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// inBraces takes the braces off "{...}".
func inBraces(s string) (inside string, ok bool) {
	s = strings.TrimSpace(s)
	if len(s) < 2 || s[0] != '{' || s[len(s)-1] != '}' {
		return "", false
	}
	return strings.TrimSpace(s[1 : len(s)-1]), true
}
