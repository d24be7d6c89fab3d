// Package failpoint names the places between two durable effects, so that a
// test can end a process at exactly one of them.
//
// Only a binary built with the tag "failpoint" knows them; in any other Here is
// empty and inlined. docs/architecture.md lists them.
package failpoint
