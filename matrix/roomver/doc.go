// Package roomver describes each room version as data.
//
// It owns the table of room versions 1 to 12: a row per version, a field per difference. Code that
// depends on a room's version asks a field of Version; nothing compares version IDs.
//
// Invariant: a *Version is shared and must not be changed. The ID is an opaque string: versions
// have no order, though All lists them as the specification does.
//
// Spec: rooms Complete list of room versions
package roomver
