package roomver

import (
	"math"

	"myelin/matrix/canon"
)

// The room versions of the specification. What a row leaves out is false.
//
// Spec: rooms Complete list of room versions
var table = []*Version{
	{
		ID: "1", Stable: true,
		StateRes: StateResV1, EventIDs: EventIDDomain, Canon: canon.Lax, MaxDepth: math.MaxInt64,
		Redaction: redactionV1, RedactionAuth: true, SpecialCaseAliases: true,
		FloatPowerLevels: true,
	},
	{
		ID: "2", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDDomain, Canon: canon.Lax, MaxDepth: math.MaxInt64,
		Redaction: redactionV1, RedactionAuth: true, SpecialCaseAliases: true,
		FloatPowerLevels: true,
	},
	{
		ID: "3", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashStd, Canon: canon.Lax, MaxDepth: math.MaxInt64,
		Redaction: redactionV1, SpecialCaseAliases: true, FloatPowerLevels: true,
	},
	{
		ID: "4", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Lax, MaxDepth: math.MaxInt64,
		Redaction: redactionV1, SpecialCaseAliases: true, FloatPowerLevels: true,
	},
	{
		ID: "5", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Lax, MaxDepth: math.MaxInt64,
		StrictKeyValidity: true, Redaction: redactionV1, SpecialCaseAliases: true,
		FloatPowerLevels: true,
	},
	{
		ID: "6", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Strict, MaxDepth: canon.MaxInt,
		StrictKeyValidity: true, Redaction: redactionV6, NotificationsPowerLevel: true,
	},
	{
		ID: "7", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Strict, MaxDepth: canon.MaxInt,
		StrictKeyValidity: true, Redaction: redactionV6, NotificationsPowerLevel: true,
		Knock: true,
	},
	{
		ID: "8", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Strict, MaxDepth: canon.MaxInt,
		StrictKeyValidity: true, Redaction: redactionV8, NotificationsPowerLevel: true,
		Knock: true, Restricted: true,
	},
	{
		ID: "9", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Strict, MaxDepth: canon.MaxInt,
		StrictKeyValidity: true, Redaction: redactionV9, NotificationsPowerLevel: true,
		Knock: true, Restricted: true,
	},
	{
		ID: "10", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Strict, MaxDepth: canon.MaxInt,
		StrictKeyValidity: true, Redaction: redactionV9, NotificationsPowerLevel: true,
		Knock: true, Restricted: true, KnockRestricted: true, IntegerPowerLevels: true,
	},
	{
		ID: "11", Stable: true,
		StateRes: StateResV2, EventIDs: EventIDHashURL, Canon: canon.Strict, MaxDepth: canon.MaxInt,
		StrictKeyValidity: true, Redaction: redactionV11, RedactsInContent: true, FieldsInBytes: true,
		NotificationsPowerLevel: true, Knock: true, Restricted: true, KnockRestricted: true,
		IntegerPowerLevels: true, ImplicitCreator: true,
	},
	{
		ID: "12", Stable: true,
		StateRes: StateResV21, EventIDs: EventIDHashURL, Canon: canon.Strict, MaxDepth: canon.MaxInt,
		StrictKeyValidity: true, Redaction: redactionV11, RedactsInContent: true, FieldsInBytes: true,
		NotificationsPowerLevel: true, Knock: true, Restricted: true, KnockRestricted: true,
		IntegerPowerLevels: true, ImplicitCreator: true, CreateAsRoomID: true,
		PrivilegedCreators: true,
	},
}
