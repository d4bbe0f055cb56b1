package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

const envPrefix = "MYELIN_"

// FileVariable names the environment variable with the path of the configuration file, for where
// there is no --config.
const FileVariable = envPrefix + "CONFIG"

// Sources says where to read from.
type Sources struct {
	// File is the path of a TOML file; "" means none.
	File string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Options are "key=value" each, the last one of a key winning.
	Options []string
}

// Origins says of each key that was set where its value came from: a file's path, the name of a
// variable, or "-o".
type Origins map[string]string

// Load reads and checks the configuration. The error lists everything that is wrong, a line each.
func Load(s Sources) (*Config, Origins, error) {
	c, origins := Default(), make(Origins)
	var problems []error
	if s.File != "" {
		problems = append(problems, loadFile(c, origins, s.File)...)
	}
	problems = append(problems, loadEnviron(c, origins, s.Environ)...)
	problems = append(problems, loadOptions(c, origins, s.Options)...)
	if len(problems) == 0 {
		// A value that could not be read would be reported twice otherwise.
		for _, p := range c.check() {
			if from := origins[p.key]; from != "" {
				p.text += " (set by " + from + ")"
			}
			problems = append(problems, errors.New(p.text))
		}
	}
	if len(problems) > 0 {
		return nil, nil, errors.Join(problems...)
	}
	return c, origins, nil
}

func loadFile(c *Config, origins Origins, path string) []error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return []error{fmt.Errorf("there is no configuration file %s; make one with: myelin config describe > %s", path, path)}
	} else if err != nil {
		return []error{fmt.Errorf("read the configuration file: %w", err)}
	}
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		return []error{fmt.Errorf("%s is not valid TOML: %w", path, err)}
	}
	flat := make(map[string]any)
	flatten(flat, "", tree)
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(flat)) {
		if err := assign(c, name, flat[name]); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", path, err))
			continue
		}
		origins[name] = path
	}
	return problems
}

// flatten turns tables into keys with dots. A table in the place of a value stays a value, so
// that its key is reported.
func flatten(into map[string]any, prefix string, tree map[string]any) {
	for name, value := range tree {
		if table, ok := value.(map[string]any); ok && len(table) > 0 {
			flatten(into, prefix+name+".", table)
			continue
		} else if ok && isSection(prefix+name) {
			continue
		}
		into[prefix+name] = value
	}
}

func isSection(name string) bool {
	return slices.ContainsFunc(keys(), func(k key) bool { return strings.HasPrefix(k.name, name+".") })
}

func assign(c *Config, name string, value any) error {
	k, err := findKey(name)
	if err != nil {
		return err
	}
	return k.set(c, value)
}

// foreign are variables with our prefix that are not ours to judge: those of this project's tests,
// and those that Kubernetes sets in every container for a service called myelin.
var foreign = regexp.MustCompile(`^MYELIN_(CONFIG|REQUIRE|TEST_.*|SYNAPSE|SYNAPSE_UNREACHABLE|DENDRITE|(.*_)?SERVICE_(HOST|PORT.*)|(.*_)?PORT(_[0-9]+_.*)?)$`)

func loadEnviron(c *Config, origins Origins, environ []string) []error {
	byVariable := make(map[string]key)
	for _, k := range keys() {
		byVariable[k.variable()] = k
	}
	var problems []error
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		k, ok := byVariable[name]
		switch {
		case ok:
			if err := k.set(c, value); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
				continue
			}
			origins[k.name] = name
		case !foreign.MatchString(name):
			nearest := slices.MinFunc(slices.Sorted(maps.Keys(byVariable)), func(a, b string) int {
				return distance(name, a) - distance(name, b)
			})
			problems = append(problems, fmt.Errorf("the environment variable %s belongs to no key; the nearest one is %s", name, nearest))
		}
	}
	return problems
}

func loadOptions(c *Config, origins Origins, options []string) []error {
	var problems []error
	for _, option := range options {
		name, value, ok := strings.Cut(option, "=")
		if !ok {
			problems = append(problems, fmt.Errorf("-o %s: write -o key=value", option))
			continue
		}
		if err := assign(c, strings.TrimSpace(name), value); err != nil {
			problems = append(problems, fmt.Errorf("-o %s: %w", name, err))
			continue
		}
		origins[strings.TrimSpace(name)] = "-o"
	}
	return problems
}
