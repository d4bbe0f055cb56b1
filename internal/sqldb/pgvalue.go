package sqldb

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// encode gives the binary form of an argument for a parameter of the given type; nil is NULL. Bytes are copied.
func (s *pgSession) encode(arg any, oid uint32) ([]byte, error) {
	if s.arena == nil {
		s.arena = make([]byte, 0, 512) // a slice of it, even an empty one, must not be nil: that is NULL
	}
	at := len(s.arena)
	switch v := arg.(type) {
	case nil:
		return nil, nil
	case int64:
		return s.encodeInteger(v, oid)
	case string:
		if err := checkText(v); err != nil && oid != pgtype.ByteaOID {
			return nil, err
		}
		switch oid {
		case pgtype.TextOID, pgtype.VarcharOID, pgtype.NameOID, pgtype.UnknownOID, pgtype.ByteaOID:
			s.arena = append(s.arena, v...)
			return s.arena[at:len(s.arena):len(s.arena)], nil
		}
	case []byte:
		switch {
		case v == nil:
			return nil, nil
		case oid == pgtype.ByteaOID:
			s.arena = append(s.arena, v...)
			return s.arena[at:len(s.arena):len(s.arena)], nil
		}
		return nil, fmt.Errorf("bytes for a %s", s.typeName(oid))
	case float64:
		return s.types.Encode(oid, pgtype.BinaryFormatCode, v, nil)
	case []int64:
		if oid == pgtype.Int8ArrayOID {
			return encodeInts(v), nil
		}
		return s.types.Encode(oid, pgtype.BinaryFormatCode, v, nil)
	case []string:
		for _, str := range v {
			if err := checkText(str); err != nil {
				return nil, err
			}
		}
		if v == nil {
			v = []string{}
		}
		return s.types.Encode(oid, pgtype.BinaryFormatCode, v, nil)
	default:
		n, err := normalise(arg)
		if err != nil {
			return nil, err
		}
		return s.encode(n, oid)
	}
	return nil, fmt.Errorf("%T for a %s", arg, s.typeName(oid))
}

func (s *pgSession) typeName(oid uint32) string {
	if t, ok := s.types.TypeForOID(oid); ok {
		return t.Name
	}
	return fmt.Sprint("type ", oid)
}

func (s *pgSession) encodeInteger(v int64, oid uint32) ([]byte, error) {
	at := len(s.arena)
	switch {
	case oid == pgtype.Int8OID:
		s.arena = binary.BigEndian.AppendUint64(s.arena, uint64(v))
	case oid == pgtype.Int4OID && v == int64(int32(v)):
		s.arena = binary.BigEndian.AppendUint32(s.arena, uint32(v))
	case oid == pgtype.Int2OID && v == int64(int16(v)):
		s.arena = binary.BigEndian.AppendUint16(s.arena, uint16(v))
	case oid == pgtype.NumericOID, oid == pgtype.Float8OID:
		return s.types.Encode(oid, pgtype.BinaryFormatCode, v, nil)
	default:
		return nil, fmt.Errorf("%d for a %s", v, s.typeName(oid))
	}
	return s.arena[at:len(s.arena):len(s.arena)], nil
}

// encodeInts gives the binary form of a one-dimensional bigint[].
func encodeInts(v []int64) []byte {
	if len(v) == 0 {
		out := make([]byte, 8, 12) // no dimensions, no nulls
		return binary.BigEndian.AppendUint32(out, pgtype.Int8OID)
	}
	out := make([]byte, 0, 20+12*len(v))
	out = binary.BigEndian.AppendUint32(out, 1) // dimensions
	out = binary.BigEndian.AppendUint32(out, 0) // no nulls
	out = binary.BigEndian.AppendUint32(out, pgtype.Int8OID)
	out = binary.BigEndian.AppendUint32(out, uint32(len(v)))
	out = binary.BigEndian.AppendUint32(out, 1) // first index
	for _, n := range v {
		out = binary.BigEndian.AppendUint32(out, 8)
		out = binary.BigEndian.AppendUint64(out, uint64(n))
	}
	return out
}

// pgRow reads the current row of a result in binary form.
type pgRow struct {
	rr    *pgconn.ResultReader
	types *pgtype.Map
}

func (r *pgRow) count() int      { return len(r.rr.Values()) }
func (r *pgRow) null(i int) bool { return r.rr.Values()[i] == nil }

func (r *pgRow) integer(i int) (int64, error) {
	b := r.rr.Values()[i]
	switch oid := r.rr.FieldDescriptions()[i].DataTypeOID; {
	case oid == pgtype.Int8OID && len(b) == 8:
		return int64(binary.BigEndian.Uint64(b)), nil
	case oid == pgtype.Int4OID && len(b) == 4:
		return int64(int32(binary.BigEndian.Uint32(b))), nil
	case oid == pgtype.Int2OID && len(b) == 2:
		return int64(int16(binary.BigEndian.Uint16(b))), nil
	case oid == pgtype.BoolOID && len(b) == 1:
		return int64(b[0]), nil
	case oid == pgtype.NumericOID: // sum() of a bigint column
		var n int64
		err := r.types.Scan(oid, pgtype.BinaryFormatCode, b, &n)
		return n, err
	}
	return 0, errNotInteger
}

func (r *pgRow) real(i int) (float64, error) {
	b := r.rr.Values()[i]
	if r.rr.FieldDescriptions()[i].DataTypeOID == pgtype.Float8OID && len(b) == 8 {
		return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
	}
	n, err := r.integer(i)
	return float64(n), err
}

func (r *pgRow) raw(i int) ([]byte, error) {
	switch r.rr.FieldDescriptions()[i].DataTypeOID {
	case pgtype.TextOID, pgtype.VarcharOID, pgtype.NameOID, pgtype.ByteaOID, pgtype.BPCharOID:
		return append([]byte{}, r.rr.Values()[i]...), nil
	}
	return nil, errNotText
}
