package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// key is one leaf of the Config struct.
type key struct {
	name   string // "client.listen"
	index  []int  // of the field, for reflect
	field  string // "Client.Listen", to find its comment
	secret bool
	reload bool
}

// variable is the name of the key's environment variable.
func (k key) variable() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

func (k key) value(c *Config) reflect.Value { return reflect.ValueOf(c).Elem().FieldByIndex(k.index) }

// keys lists all keys in the order of the struct.
func keys() []key { return keysOf(reflect.TypeFor[Config](), "", "Config", nil) }

func keysOf(t reflect.Type, prefix, typeName string, index []int) []key {
	var all []key
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(slices.Clone(index), i)
		name := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			all = append(all, keysOf(f.Type, name+".", f.Type.Name(), at)...)
			continue
		}
		is := strings.Fields(f.Tag.Get("is"))
		all = append(all, key{
			name: name, index: at, field: typeName + "." + f.Name,
			secret: slices.Contains(is, "secret"), reload: slices.Contains(is, "reload"),
		})
	}
	return all
}

func findKey(name string) (key, error) {
	all := keys()
	for _, k := range all {
		if k.name == name {
			return k, nil
		}
	}
	nearest := slices.MinFunc(all, func(a, b key) int { return distance(name, a.name) - distance(name, b.name) })
	return key{}, fmt.Errorf("%q is not a key; the nearest one is %q (myelin config describe lists all)", name, nearest.name)
}

// distance is the number of letters to insert, delete or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// set gives a key a value out of the TOML file, or text out of a variable or an option.
func (k key) set(c *Config, value any) error {
	field := k.value(c)
	text, isText := value.(string)
	switch field.Interface().(type) {
	case string:
		if !isText {
			return k.wants("a text in quotes")
		}
		field.SetString(text)
	case bool:
		if isText {
			b, err := strconv.ParseBool(text)
			if err != nil {
				return k.wants("true or false")
			}
			value = b
		}
		b, ok := value.(bool)
		if !ok {
			return k.wants("true or false")
		}
		field.SetBool(b)
	case Duration:
		if n, ok := value.(int64); ok && n == 0 {
			text, isText = "0", true
		}
		d, err := parseDuration(text)
		if err != nil || !isText {
			return k.wants(`a time such as "90s", "1h" or "7d", or "0"`)
		}
		field.SetInt(int64(d))
	case Size:
		if n, ok := value.(int64); ok {
			text = strconv.FormatInt(n, 10)
		}
		size, err := parseSize(text)
		if err != nil {
			return k.wants(`a size such as "500KiB", "50MiB" or "10GiB"`)
		}
		field.SetInt(int64(size))
	case []string:
		list, err := toList(value)
		if err != nil {
			return k.wants("a list of texts")
		}
		field.Set(reflect.ValueOf(list))
	default:
		return fmt.Errorf("%s: fields of type %s are not supported", k.name, field.Type())
	}
	return nil
}

func (k key) wants(what string) error { return fmt.Errorf("%s must be %s", k.name, what) }

// toList accepts a TOML list of texts, or one text with commas.
func toList(value any) ([]string, error) {
	var list []string
	switch v := value.(type) {
	case string:
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not a text", e)
			}
			list = append(list, s)
		}
	default:
		return nil, fmt.Errorf("%v is not a list", value)
	}
	return list, nil
}

func parseDuration(s string) (Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 15)
		return Duration(time.Duration(n) * 24 * time.Hour), err
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("%s is negative", s)
	}
	return Duration(d), err
}

// units are those of sizes, the largest first. The decimal ones are read only.
var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

func parseSize(s string) (Size, error) {
	unit := int64(1)
	for _, u := range units {
		if digits, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(digits), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 63)
	if err == nil && (n < 0 || n > math.MaxInt64/unit) {
		err = fmt.Errorf("%s is no size", s)
	}
	return Size(n * unit), err
}

// String writes a size in the largest unit that fits.
func (s Size) String() string {
	for _, u := range units[:4] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// String writes a duration without the zeros that package time adds.
func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return strings.Replace(s, "h0m", "h", 1)
}

// show writes a key's value as TOML.
func (k key) show(c *Config) string {
	field := k.value(c)
	if k.secret && field.String() != "" {
		return `"(secret)"`
	}
	switch v := field.Interface().(type) {
	case Duration:
		if v == 0 {
			return `"0"`
		}
		return strconv.Quote(v.String())
	case Size:
		return strconv.Quote(v.String())
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case string:
		return strconv.Quote(v)
	default:
		return fmt.Sprint(v)
	}
}
