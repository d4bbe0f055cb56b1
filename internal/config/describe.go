package config

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"strings"
)

// The manual is the comments of the struct.
//
//go:embed config.go
var source string

// Describe writes the manual, which is a configuration file too: every key with what it means and
// its default, commented out.
func Describe(w io.Writer) error {
	docs, err := fieldDocs()
	if err != nil {
		return err
	}
	var out strings.Builder
	out.WriteString("# Myelin's configuration. Every key stands here with its default.\n" +
		"# A value is taken from: -o key=value, else the environment variable, else this file.\n")
	defaults, section := Default(), ""
	for _, k := range keys() {
		name := k.name
		if s, rest, ok := strings.Cut(k.name, "."); ok {
			name = rest
			if s != section {
				section = s
				fmt.Fprintf(&out, "\n\n%s[%s]\n", comment(docs[sectionField(s)]), s)
			}
		}
		effect := "after a restart"
		if k.reload {
			effect = "on SIGHUP"
		}
		fmt.Fprintf(&out, "\n%s# Variable: %s. A change takes effect %s.\n#%s = %s\n",
			comment(docs[k.field]), k.variable(), effect, name, k.show(defaults))
	}
	_, err = io.WriteString(w, out.String())
	return err
}

// Show writes the values that differ from their defaults or were set, and where they came from.
func Show(w io.Writer, c *Config, origins Origins) error {
	for _, k := range keys() {
		if from := origins[k.name]; from != "" {
			if _, err := fmt.Fprintf(w, "%s = %s  (%s)\n", k.name, k.show(c), from); err != nil {
				return err
			}
		}
	}
	return nil
}

// sectionField is the field of Config that holds a section: "Config.Client" for "client".
func sectionField(section string) string {
	return "Config." + strings.ToUpper(section[:1]) + section[1:]
}

func comment(text string) string {
	var out strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		out.WriteString("# " + line + "\n")
	}
	return out.String()
}

// fieldDocs reads the comment of every field of every struct: "Client.Listen" to its text.
func fieldDocs() (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read the manual: %w", err)
	}
	docs := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				for _, name := range f.Names {
					docs[spec.Name.Name+"."+name.Name] = f.Doc.Text()
				}
			}
		}
		return false
	})
	return docs, nil
}
