package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tree walks one file's values and sets the fields they name.
type tree struct {
	*loader
	source
}

// table sets the fields of target, a pointer to a struct, from a TOML table.
// here is the table's path in this file, path that in the merged configuration;
// they differ in the index of list elements only.
func (t *tree) table(values map[string]any, target any, here, path string) {
	fields := fieldsOf(target)
	for _, key := range t.byLine(values, here) {
		hereKey, pathKey := join(here, key), join(path, key)
		field, ok := fields[key]
		if !ok {
			t.errs = append(t.errs, Notice{t.file, t.line(hereKey), remedy(
				fmt.Sprintf("unknown key %s", quoteKey(pathKey)), knownKeys(path, fields))})
			continue
		}
		switch p := field.(type) {
		case *[]Queue: // by queues, when [general] is complete
		case *[]Rule:
			appendTables(t, values[key], hereKey, pathKey, p, func(line int) Rule { return Rule{File: t.file, Line: line} })
		case *[]Reply:
			appendTables(t, values[key], hereKey, pathKey, p, func(line int) Reply { return Reply{After: 1, Within: 10 * time.Minute, File: t.file, Line: line} })
		case *[]Pool:
			appendTables(t, values[key], hereKey, pathKey, p, func(line int) Pool { return Pool{File: t.file, Line: line} })
		case *[]Warmup:
			appendTables(t, values[key], hereKey, pathKey, p, func(line int) Warmup {
				return Warmup{Deferrals: warmupDeferrals, HardBounces: warmupHardBounces, Complaints: warmupComplaints, File: t.file, Line: line}
			})
		case *[]DKIM:
			appendTables(t, values[key], hereKey, pathKey, p, func(line int) DKIM { return DKIM{File: t.file, Line: line} })
		case *[]Stream:
			appendTables(t, values[key], hereKey, pathKey, p, func(line int) Stream { return Stream{File: t.file, Line: line} })
		case *[]Webhook:
			appendTables(t, values[key], hereKey, pathKey, p, func(line int) Webhook { return Webhook{File: t.file, Line: line} })
		case *[]SuppressionStream:
			appendTables(t, values[key], hereKey, pathKey, p, func(_ int) SuppressionStream { return SuppressionStream{} })
		case *Spool, *Milter, *Inlet, *Agent, *HTTP, *Handback, *Events, *Outcomes, *Suppression, *Feedback, *Breaker, *Fleet, *Simulate, *Log, *Queue:
			sub, ok := values[key].(map[string]any)
			if !ok {
				t.errs = append(t.errs, Notice{t.file, t.line(hereKey), remedy(
					fmt.Sprintf("%s is %s", key, kindOf(values[key])), fmt.Sprintf("write it as a table, [%s]", pathKey))})
				continue
			}
			t.table(sub, p, hereKey, pathKey)
		default:
			t.set(values[key], p, hereKey, pathKey)
		}
	}
}

// set sets one field and remembers where that was said.
func (t *tree) set(value, field any, here, path string) {
	if first, ok := t.at[path]; ok {
		t.errs = append(t.errs, Notice{t.file, t.line(here), remedy(
			fmt.Sprintf("%s is set already at %s:%d", path, first.File, first.Line), "keep one of the two")})
		return
	}
	t.at[path] = Notice{File: t.file, Line: t.line(here)}
	if list, ok := value.([]any); ok {
		for i := range list {
			index := "[" + strconv.Itoa(i) + "]"
			t.at[path+index] = Notice{File: t.file, Line: t.line(here + index)}
		}
	}
	key := path[strings.LastIndexByte(path, '.')+1:]
	for _, f := range assign(value, field, key) {
		at := path
		if f.element >= 0 {
			at += "[" + strconv.Itoa(f.element) + "]"
		}
		t.fail(at, key+": "+f.text)
		t.bad[path] = true
	}
}

// queues appends this file's [[queue]] tables.
func (t *tree) queues() {
	value, ok := t.tree["queue"]
	if !ok {
		return
	}
	t.elements(value, "queue", "queue", len(t.cfg.Queues), func(value map[string]any, here, path string) {
		q := t.cfg.General
		q.Name, q.File, q.Line = "", t.file, t.line(here)
		q.Domains, q.DomainFiles, q.MX = nil, nil, nil
		t.table(value, &q, here, path)
		t.cfg.Queues = append(t.cfg.Queues, q)
	})
}

// appendTables reads tables into a list, each into a value that fresh makes for the line on which
// it begins.
func appendTables[T any](t *tree, value any, here, path string, list *[]T, fresh func(line int) T) {
	t.elements(value, here, path, len(*list), func(value map[string]any, here, path string) {
		x := fresh(t.line(here))
		t.table(value, &x, here, path)
		*list = append(*list, x)
	})
}

// elements calls each for every table of an array of tables; there are n of
// them already from earlier files.
func (t *tree) elements(value any, here, path string, n int, each func(value map[string]any, here, path string)) {
	var tables []map[string]any
	switch v := value.(type) {
	case []map[string]any:
		tables = v
	case []any:
		for _, e := range v {
			if m, ok := e.(map[string]any); ok {
				tables = append(tables, m)
			}
		}
		if len(tables) < len(v) {
			tables = nil
		}
	}
	if tables == nil {
		t.errs = append(t.errs, Notice{t.file, t.line(here), remedy(
			fmt.Sprintf("%s is %s", path, kindOf(value)), fmt.Sprintf("write each one as [[%s]]", path))})
	}
	for i, value := range tables {
		here, path := fmt.Sprintf("%s[%d]", here, i), fmt.Sprintf("%s[%d]", path, n+i)
		t.at[path] = Notice{File: t.file, Line: t.line(here)}
		each(value, here, path)
	}
}

// line is the line of a path in this file.
func (t *tree) line(here string) int { return t.lines[here] }

// byLine returns a table's keys in the order they were written.
func (t *tree) byLine(values map[string]any, here string) []string {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := t.line(join(here, a)) - t.line(join(here, b)); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}

// fieldsOf returns pointers to the fields of a struct by their keys.
func fieldsOf(target any) map[string]any {
	v := reflect.ValueOf(target).Elem()
	fields := make(map[string]any)
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("toml"); key != "" && key != "-" {
			fields[key] = v.Field(i).Addr().Interface()
		}
	}
	return fields
}

func knownKeys(path string, fields map[string]any) string {
	keys := make([]string, 0, len(fields))
	for key := range fields {
		if path != generalName || !slices.Contains(notGeneral(), key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	table := "at the top of the file"
	switch {
	case strings.HasSuffix(path, "]"):
		table = "in [[" + path[:strings.LastIndexByte(path, '[')] + "]]"
	case path != "":
		table = "in [" + path + "]"
	}
	return "the keys " + table + " are " + strings.Join(keys, ", ")
}

// quoteKey writes a path for a message: the key, quoted, without the table.
func quoteKey(path string) string {
	return strconv.Quote(path[strings.LastIndexByte(path, '.')+1:])
}

// kindOf names the type of a TOML value.
func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	default:
		return "a list"
	}
}

// fault is what is wrong with a value, or with one element of a list.
type fault struct {
	element int // -1: the value as a whole
	text    string
}

func whole(text string) []fault { return []fault{{-1, text}} }

func wrongType(value any, want, example string) []fault {
	return whole(remedy("this is "+kindOf(value), fmt.Sprintf("write %s: %s", want, example)))
}

// assign sets the field that p points to. Every type that a field of the
// configuration may have stands here.
func assign(value, p any, key string) []fault {
	switch p := p.(type) {
	case *string:
		return scalar(value, p, key+` = "..."`, func(s string) (string, error) { return s, nil })
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return wrongType(value, "true or false, without quotes", key+" = true")
		}
		*p = b
	case *int:
		return integer(value, p, key, 1, 1<<31-1)
	case *Share:
		return integer(value, p, key, 1, MaxPriority)
	case *Count:
		return integer(value, p, key, 0, 1<<31-1)
	case *int64:
		return integer(value, p, key, 1, 1<<62)
	case *uint16:
		return integer(value, p, key, 1, 1<<16-1)
	case *Size:
		if n, ok := value.(int64); ok && n >= 0 {
			*p = Size(n)
			return nil
		}
		return scalar(value, p, key+` = "1GiB"`, ParseSize)
	case *Percent:
		return scalar(value, p, key+` = "5%"`, ParsePercent)
	case *Rate:
		return scalar(value, p, key+` = "100/s"`, ParseRate)
	case *time.Duration:
		return scalar(value, p, key+` = "1h"`, positiveDuration)
	case *Age:
		if value == "" {
			*p = 0
			return nil
		}
		return scalar(value, (*time.Duration)(p), key+` = "4h"`, positiveDuration)
	case *Route:
		return scalar(value, p, key+` = "mx"`, parseRoute)
	case *OnBlock:
		return oneOf(value, p, key, BlockWait, BlockOthers)
	case *Overflow:
		return oneOf(value, p, key, OverflowWarm, OverflowWait, OverflowHandback)
	case *PoolWarmup:
		if s, ok := value.(string); ok {
			*p = PoolWarmup{All: s}
			return nil
		}
		return list(value, &p.Each, key, func(s string) (string, error) { return s, nil })
	case *Days:
		return integers(value, (*[]int)(p), key, 1, 1_000_000_000)
	case *Spread:
		return oneOf(value, p, key, SpreadDomain, SpreadRecipient)
	case *Mode:
		return oneOf(value, p, key, Observe, Divert)
	case *Verdict:
		return oneOf(value, p, key, VerdictAuto, VerdictDelrcpt, VerdictDiscard)
	case *LogFormat:
		return oneOf(value, p, key, LogLogfmt, LogJSON, LogPostfix)
	case *LogLevel:
		return oneOf(value, p, key, LevelDebug, LevelInfo, LevelWarn, LevelError)
	case *LogDeliveries:
		return oneOf(value, p, key, DeliveriesAll, DeliveriesFailures, DeliveriesNone)
	case *Action:
		return oneOf(value, p, key, ActionDivert, ActionLeave)
	case *ReplyAction:
		return oneOf(value, p, key, ReplySlow, ReplySuspend, ReplySessions, ReplyLearn, ReplyRecipient, ReplyRetry, ReplyBounce, ReplyPause, ReplyHold)
	case *DANE:
		if b, ok := value.(bool); ok {
			*p = DANE(strconv.FormatBool(b))
			return nil
		}
		if value != string(DANEAuto) {
			return whole(remedy(fmt.Sprintf("%v is unknown", quoted(value)), `write true, false or "auto"`))
		}
		*p = DANEAuto
	case *SuppressionMode:
		return oneOf(value, p, key, SuppressOff, SuppressAdvise, SuppressDrop)
	case *WebhookForm:
		return oneOf(value, p, key, FormMillrace, FormListmonk)
	case *OutcomeRecipients:
		return oneOf(value, p, key, RecipientsPlain, RecipientsHashed, RecipientsNone)
	case *SuppressionScope:
		return oneOf(value, p, key, SuppressStream, SuppressGlobal)
	case *TLSVersion:
		return oneOf(value, p, key, TLS12, TLS13)
	case *TLS:
		return oneOf(value, p, key, TLSNone, TLSOpportunistic, TLSRequired, TLSVerify)
	case *Listeners:
		if value == "" {
			*p = nil
			return nil
		}
		if s, ok := value.(string); ok {
			*p = Listeners{s}
			return nil
		}
		return list(value, (*[]string)(p), key, func(s string) (string, error) { return s, nil })
	case *[]string:
		return list(value, p, key, func(s string) (string, error) { return s, nil })
	case *[]time.Duration:
		return list(value, p, key, positiveDuration)
	case *[]Quota:
		return list(value, p, key, ParseQuota)
	case *[]int:
		return integers(value, p, key, 1, 1000)
	case *[]netip.Prefix:
		return list(value, p, key, parsePrefix)
	case *[]netip.Addr:
		return list(value, p, key, parseAddr)
	case *[]HeaderMatch:
		return list(value, p, key, parseHeaderMatch)
	default:
		panic(fmt.Sprintf("config: no way to set a %T", p)) // a field of a new type: a mistake of ours
	}
	return nil
}

// quoted writes a value as it may stand in a message.
func quoted(value any) string {
	if s, ok := value.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(value)
}

func scalar[T any](value any, p *T, example string, parse func(string) (T, error)) []fault {
	s, ok := value.(string)
	if !ok {
		return wrongType(value, "a string", example)
	}
	v, err := parse(s)
	if err != nil {
		return whole(err.Error())
	}
	*p = v
	return nil
}

func integer[T int | Share | Count | int64 | uint16](value any, p *T, key string, least, most int64) []fault {
	n, ok := value.(int64)
	if !ok {
		return wrongType(value, "a whole number, without quotes", key+" = 10")
	}
	if n < least || n > most {
		return whole(remedy(fmt.Sprintf("%d is out of range", n), fmt.Sprintf("write a number from %d to %d", least, most)))
	}
	*p = T(n)
	return nil
}

func integers(value any, p *[]int, key string, least, most int64) []fault {
	values, ok := value.([]any)
	if !ok {
		return wrongType(value, "a list of numbers", key+" = [1, 1]")
	}
	var faults []fault
	out := make([]int, len(values))
	for i, value := range values {
		if f := integer(value, &out[i], key, least, most); f != nil {
			faults = append(faults, fault{i, f[0].text})
		}
	}
	if faults == nil {
		*p = out
	}
	return faults
}

func oneOf[T ~string](value any, p *T, key string, allowed ...T) []fault {
	return scalar(value, p, fmt.Sprintf("%s = %q", key, allowed[0]), func(s string) (T, error) {
		if slices.Contains(allowed, T(s)) {
			return T(s), nil
		}
		words := make([]string, len(allowed))
		for i, a := range allowed {
			words[i] = strconv.Quote(string(a))
		}
		return "", fmt.Errorf("%q is unknown; remedy: write %s", s, alternatives(words))
	})
}

// alternatives writes "a", "a or b", "a, b or c".
func alternatives(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func list[T any](value any, p *[]T, key string, parse func(string) (T, error)) []fault {
	values, ok := value.([]any)
	if !ok {
		return wrongType(value, "a list", key+` = ["..."]`)
	}
	var faults []fault
	out := make([]T, 0, len(values))
	for i, value := range values {
		var v T
		if f := scalar(value, &v, fmt.Sprintf(`%s = ["..."]`, key), parse); f != nil {
			faults = append(faults, fault{i, f[0].text})
			continue
		}
		out = append(out, v)
	}
	if faults == nil {
		*p = out
	}
	return faults
}

func positiveDuration(s string) (time.Duration, error) {
	d, err := ParseDuration(s)
	if err == nil && d == 0 {
		err = fmt.Errorf("%q is no time at all; remedy: write at least \"1s\"", s)
	}
	return d, err
}
