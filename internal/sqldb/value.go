package sqldb

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// ErrText is wrapped by the error for a text argument that PostgreSQL could not keep.
var ErrText = errors.New("text holds a NUL byte or invalid UTF-8")

// checkText refuses on both engines what one of them cannot store.
func checkText(s string) error {
	if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return ErrText // without the text: it may be somebody's message
	}
	return nil
}

// normalise reduces an argument to nil, int64, float64, string, []byte, []int64 or []string.
func normalise(arg any) (any, error) {
	switch v := arg.(type) {
	case nil, int64, float64, string, []int64, []string:
		return v, nil
	case int:
		return int64(v), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case []byte:
		if v == nil {
			return nil, nil
		}
		return v, nil
	case driver.Valuer:
		inner, err := v.Value()
		if err != nil {
			return nil, err
		}
		if _, again := inner.(driver.Valuer); again {
			return nil, fmt.Errorf("argument of type %T", arg)
		}
		return normalise(inner)
	}
	return normaliseKind(reflect.ValueOf(arg))
}

func normaliseKind(v reflect.Value) (any, error) {
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return int64(v.Uint()), nil
	case reflect.Bool:
		return normalise(v.Bool())
	case reflect.String:
		return v.String(), nil
	case reflect.Float32, reflect.Float64:
		return v.Float(), nil
	case reflect.Pointer:
		if v.IsNil() {
			return nil, nil
		}
		return normalise(v.Elem().Interface())
	case reflect.Slice:
		return normaliseSlice(v)
	}
	return nil, fmt.Errorf("argument of type %s", v.Type())
}

func normaliseSlice(v reflect.Value) (any, error) {
	switch v.Type().Elem().Kind() {
	case reflect.Uint8:
		if v.IsNil() {
			return nil, nil
		}
		return v.Bytes(), nil
	case reflect.Int, reflect.Int32, reflect.Int64:
		out := make([]int64, v.Len())
		for i := range out {
			out[i] = v.Index(i).Int()
		}
		return out, nil
	case reflect.String:
		out := make([]string, v.Len())
		for i := range out {
			out[i] = v.Index(i).String()
		}
		return out, nil
	}
	return nil, fmt.Errorf("argument of type %s", v.Type())
}

// columns is the current row of a session. Values are valid until the callback returns; text and bytes are copies.
type columns interface {
	count() int
	null(i int) bool
	integer(i int) (int64, error)
	real(i int) (float64, error)
	// raw is the text or blob as a fresh copy, not nil.
	raw(i int) ([]byte, error)
}

// Row is one row of a result, valid during its callback.
type Row struct{ cols columns }

// Scan copies the columns into dest, one pointer for each: to an integer, string, bool, float or []byte or a named kind
// of these, or to a pointer to one of them (nil for NULL), or a [sql.Scanner]. NULL fits only []byte (nil), pointers and Scanners. A
// nil dest skips its column.
func (r *Row) Scan(dest ...any) error {
	if n := r.cols.count(); n != len(dest) {
		return fmt.Errorf("scan: %d columns into %d variables", n, len(dest))
	}
	for i, d := range dest {
		if err := r.scan(i, d); err != nil {
			return fmt.Errorf("scan column %d: %w", i+1, err)
		}
	}
	return nil
}

var (
	errNotInteger = errors.New("not an integer")
	errNotText    = errors.New("neither text nor blob")
)

var errNull = errors.New("NULL into a variable that cannot hold it")

func (r *Row) scan(i int, dest any) (err error) {
	if dest == nil {
		return nil
	}
	if s, ok := dest.(sql.Scanner); ok {
		return r.scanScanner(i, s)
	}
	null := r.cols.null(i)
	if b, ok := dest.(*[]byte); ok {
		if *b = nil; !null {
			*b, err = r.cols.raw(i)
		}
		return err
	}
	if !null {
		switch d := dest.(type) {
		case *int64:
			*d, err = r.cols.integer(i)
			return err
		case *string:
			var raw []byte
			raw, err = r.cols.raw(i)
			*d = string(raw)
			return err
		}
	}
	v := reflect.ValueOf(dest)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("into %T: not a pointer", dest)
	}
	return r.scanKind(i, null, v.Elem())
}

func (r *Row) scanKind(i int, null bool, v reflect.Value) error {
	if null {
		if v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice {
			v.SetZero()
			return nil
		}
		return errNull
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := r.cols.integer(i)
		if err == nil && v.OverflowInt(n) {
			err = fmt.Errorf("%d overflows %s", n, v.Type())
		}
		v.SetInt(n)
		return err
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		n, err := r.cols.integer(i)
		if err == nil && (n < 0 || v.OverflowUint(uint64(n))) {
			err = fmt.Errorf("%d overflows %s", n, v.Type())
		}
		v.SetUint(uint64(n))
		return err
	case reflect.Bool:
		n, err := r.cols.integer(i)
		v.SetBool(n != 0)
		return err
	case reflect.Float32, reflect.Float64:
		f, err := r.cols.real(i)
		v.SetFloat(f)
		return err
	case reflect.String:
		raw, err := r.cols.raw(i)
		v.SetString(string(raw))
		return err
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			raw, err := r.cols.raw(i)
			v.SetBytes(raw)
			return err
		}
	case reflect.Pointer:
		inner := reflect.New(v.Type().Elem())
		if err := r.scan(i, inner.Interface()); err != nil {
			return err
		}
		v.Set(inner)
		return nil
	}
	return fmt.Errorf("into a variable of type %s", v.Type())
}

// scanScanner serves sql.Null and its kin. They convert from int64 and string themselves.
func (r *Row) scanScanner(i int, s sql.Scanner) error {
	if r.cols.null(i) {
		return s.Scan(nil)
	}
	if n, err := r.cols.integer(i); err == nil {
		return s.Scan(n)
	}
	raw, err := r.cols.raw(i)
	if err != nil {
		return err
	}
	return s.Scan(raw)
}
