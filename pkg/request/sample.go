package request

import _ "embed"

// Sample is the original specification's own message, "volume:" spelling and
// all.
//
//go:embed testdata/sample.json
var Sample []byte
