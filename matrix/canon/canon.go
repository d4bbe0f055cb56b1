package canon

import (
	"errors"
	"iter"
)

func Canonicalize(dst, src []byte, mode Mode) ([]byte, error) { return nil, errors.New("unfinished") }
func Marshal(v any) ([]byte, error)                           { return nil, errors.New("unfinished") }
func Fields(object []byte) iter.Seq2[string, []byte]          { return func(func(string, []byte) bool) {} }
func Get(object []byte, key string) ([]byte, bool)            { return nil, false }
func Without(dst, object []byte, keys ...string) []byte       { return dst }
func With(dst, object []byte, key string, raw []byte) []byte  { return dst }
func AppendString(dst []byte, s string) []byte                { return dst }
