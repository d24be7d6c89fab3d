// Package request reads the message of a producer: one JSON object that asks
// for one Kubernetes Job (docs/contract).
//
// Parse reads a body once and gives either the accepted form, in which every
// default is filled in, or every problem at once. Everything downstream reads
// the accepted form, never the body: two readers must not see two messages.
// So what JSON readers disagree about is refused: keys that appear twice (also
// when they differ in case only), invalid UTF-8, half surrogate pairs, deep
// nesting, trailing data.
//
// The package is pure: no clock, no network, no state. It never panics. Memory
// is bounded by the body's, at most 1 MiB: one copy, and while it is parsed
// about 150 bytes for each JSON value in it, some 80 MB at the very worst (half
// a million numbers in a list).
package request
