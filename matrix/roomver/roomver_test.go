package roomver

import (
	"slices"
	"testing"

	"myelin/matrix/canon"
)

func TestAllIsCompleteAndOrdered(t *testing.T) {
	var ids []string
	for _, v := range All() {
		ids = append(ids, v.String())
		if got, ok := Get(v.ID); !ok || got != v {
			t.Errorf("Get(%q) gave %v, %v", v.ID, got, ok)
		}
		if !v.Stable {
			t.Errorf("version %s is stable in the specification", v.ID)
		}
	}
	if want := []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}; !slices.Equal(ids, want) {
		t.Errorf("versions %v, want %v", ids, want)
	}
	for _, unknown := range []string{"", "0", "13", "1.0", "org.matrix.msc2176"} {
		if v, ok := Get(unknown); ok {
			t.Errorf("Get(%q) found %v", unknown, v)
		}
	}
	if _, ok := Get(Default); !ok {
		t.Error("the default version does not exist")
	}
}

// TestFeatures states for each field the versions that have it.
//
// Spec: rooms Feature matrix
func TestFeatures(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, last int
		has         func(*Version) bool
	}{
		{"state resolution v1", 1, 1, func(v *Version) bool { return v.StateRes == StateResV1 }},
		{"state resolution v2", 2, 11, func(v *Version) bool { return v.StateRes == StateResV2 }},
		{"state resolution v2.1", 12, 12, func(v *Version) bool { return v.StateRes == StateResV21 }},
		{"event IDs with a domain", 1, 2, func(v *Version) bool { return v.EventIDs == EventIDDomain }},
		{"event IDs in base64", 3, 3, func(v *Version) bool { return v.EventIDs == EventIDHashStd }},
		{"event IDs in URL-safe base64", 4, 12, func(v *Version) bool { return v.EventIDs == EventIDHashURL }},
		{"lax JSON", 1, 5, func(v *Version) bool { return v.Canon == canon.Lax }},
		{"strict JSON", 6, 12, func(v *Version) bool { return v.Canon == canon.Strict }},
		{"depth up to 2^53-1", 6, 12, func(v *Version) bool { return v.MaxDepth == canon.MaxInt }},
		{"key validity", 5, 12, func(v *Version) bool { return v.StrictKeyValidity }},
		{"fields in bytes", 11, 12, func(v *Version) bool { return v.FieldsInBytes }},
		{"redacts in content", 11, 12, func(v *Version) bool { return v.RedactsInContent }},
		{"redactions authorised", 1, 2, func(v *Version) bool { return v.RedactionAuth }},
		{"aliases rule", 1, 5, func(v *Version) bool { return v.SpecialCaseAliases }},
		{"notifications checked", 6, 12, func(v *Version) bool { return v.NotificationsPowerLevel }},
		{"knock", 7, 12, func(v *Version) bool { return v.Knock }},
		{"restricted", 8, 12, func(v *Version) bool { return v.Restricted }},
		{"knock_restricted", 10, 12, func(v *Version) bool { return v.KnockRestricted }},
		{"integer levels", 10, 12, func(v *Version) bool { return v.IntegerPowerLevels }},
		{"float levels", 1, 5, func(v *Version) bool { return v.FloatPowerLevels }},
		{"implicit creator", 11, 12, func(v *Version) bool { return v.ImplicitCreator }},
		{"create event is the room ID", 12, 12, func(v *Version) bool { return v.CreateAsRoomID }},
		{"privileged creators", 12, 12, func(v *Version) bool { return v.PrivilegedCreators }},
		{"aliases kept by redaction", 1, 5, func(v *Version) bool { return len(v.Redaction.Content["m.room.aliases"].Keys) > 0 }},
		{"allow kept by redaction", 8, 12, func(v *Version) bool {
			return slices.Contains(v.Redaction.Content["m.room.join_rules"].Keys, "allow")
		}},
		{"authorising user kept by redaction", 9, 12, func(v *Version) bool {
			return slices.Contains(v.Redaction.Content["m.room.member"].Keys, "join_authorised_via_users_server")
		}},
		{"invite level kept by redaction", 11, 12, func(v *Version) bool {
			return slices.Contains(v.Redaction.Content["m.room.power_levels"].Keys, "invite")
		}},
		{"create content kept by redaction", 11, 12, func(v *Version) bool { return v.Redaction.Content["m.room.create"].All }},
		{"origin kept by redaction", 1, 10, func(v *Version) bool { return v.Redaction.Has("origin") }},
		{"membership kept by redaction", 1, 10, func(v *Version) bool { return v.Redaction.Has("membership") }},
		{"prev_state kept by redaction", 1, 10, func(v *Version) bool { return v.Redaction.Has("prev_state") }},
	} {
		for i, v := range All() {
			if want := i+1 >= c.first && i+1 <= c.last; c.has(v) != want {
				t.Errorf("%s in version %s: %v, want %v", c.name, v.ID, !want, want)
			}
		}
	}
}

func TestRedactionKeysAreSorted(t *testing.T) {
	for _, v := range All() {
		if !slices.IsSorted(v.Redaction.TopLevel) {
			t.Errorf("version %s: top level is not in order", v.ID)
		}
		for typ, keep := range v.Redaction.Content {
			if !slices.IsSorted(keep.Keys) {
				t.Errorf("version %s: %s is not in order", v.ID, typ)
			}
		}
	}
}
