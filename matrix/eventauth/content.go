package eventauth

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// get reads a field of what may not be an object.
func get(object []byte, key string) ([]byte, bool) {
	if !isObject(object) {
		return nil, false
	}
	return canon.Get(object, key)
}

// getText reads a string field; false when it is absent or no string.
func getText(object []byte, key string) (string, bool) {
	raw, _ := get(object, key)
	return canon.Text(raw)
}

// find is get for a canonical object of levels, which holds no other object: there a key is searched for
// many times faster than walked to, and rooms with hundreds of moderators exist.
func find(object []byte, key string) ([]byte, bool) {
	if len(object) < 2 || bytes.IndexByte(object[1:], '{') >= 0 {
		return get(object, key)
	}
	var buffer [id.MaxLength + 3]byte
	pattern := append(canon.AppendString(buffer[:0], key), ':')
	for rest := object; ; {
		i := bytes.Index(rest, pattern)
		if i < 1 {
			return nil, false
		}
		before := rest[i-1]
		rest = rest[i+len(pattern):]
		if before != '{' && before != ',' {
			continue // a quote after a backslash, inside a string
		}
		if len(rest) > 0 && rest[0] == '"' {
			return get(object, key)
		}
		end := bytes.IndexAny(rest, ",}")
		return rest[:max(end, 0)], end > 0
	}
}

func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }

func isArray(raw []byte) bool { return len(raw) > 0 && raw[0] == '[' }

// parseLevel reads one power level as the room version allows it to be written; false when it
// is nothing of the sort.
//
// Spec: rooms/v1 m.room.power_levels events accept values as strings
// Spec: rooms/v1 m.room.power_levels events accept values as floats
// Spec: rooms/v10 Values in m.room.power_levels events must be integers
func parseLevel(v *roomver.Version, raw []byte) (Power, bool) {
	if len(raw) == 0 {
		return 0, false
	}
	switch c := raw[0]; {
	case c == '"':
		s, ok := canon.Text(raw)
		if !ok || v.IntegerPowerLevels {
			return 0, false
		}
		s = strings.TrimSpace(s)
		if strings.HasPrefix(s, "+") {
			return parseDigits(s[1:], false)
		}
		return parseInteger(s)
	case c != '-' && (c < '0' || c > '9'):
		return 0, false
	}
	n, ok := parseInteger(string(raw))
	if v.FloatPowerLevels && (!ok || n == greatest || n == least) {
		return parseFloat(string(raw))
	}
	return n, ok
}

func parseInteger(s string) (Power, bool) {
	if strings.HasPrefix(s, "-") {
		return parseDigits(s[1:], true)
	}
	return parseDigits(s, false)
}

// parseDigits stops counting at the greatest or least level.
func parseDigits(s string, negative bool) (Power, bool) {
	if s == "" {
		return 0, false
	}
	var n Power
	for i := 0; i < len(s); i++ {
		d := Power(s[i]) - '0'
		if d < 0 || d > 9 {
			return 0, false
		}
		if n > (greatest-d)/10 {
			n = greatest
		} else {
			n = n*10 + d
		}
	}
	if negative {
		n = -n
	}
	return n, true
}

// parseFloat applies the exponent and cuts at the decimal point. What a double can't hold is
// no level.
func parseFloat(s string) (Power, bool) {
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil || math.IsNaN(f):
		return 0, false
	case f >= float64(greatest):
		return greatest, true
	case f <= float64(least):
		return least, true
	}
	return Power(f), true
}
