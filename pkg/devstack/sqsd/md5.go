package sqsd

import (
	"crypto/md5" //nolint:gosec // the checksum that the SQS protocol prescribes
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// bodyMD5 is what the SDK compares with the body it sent or received.
func bodyMD5(body string) string {
	sum := md5.Sum([]byte(body)) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

// attributesMD5 is the checksum of message attributes, empty for none. The
// algorithm is in the SQS Developer Guide, "Calculating the MD5 message digest
// for message attributes": names in order, and of each the name, the type, a
// byte for the kind of value (1 text, 2 binary) and the value, each text after
// its length in four bytes, big-endian.
func attributesMD5(attributes map[string]messageAttribute) string {
	if len(attributes) == 0 {
		return ""
	}
	var b []byte
	write := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // bounded by maxMessageSize
		b = append(b, s...)
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		a := attributes[name]
		write(name)
		write(a.DataType)
		if a.binary() {
			b = append(b, 2)
			write(string(a.BinaryValue))
		} else {
			b = append(b, 1)
			write(*a.StringValue)
		}
	}
	sum := md5.Sum(b) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

// messageAttribute is a name's value. Its type is String, Number or Binary,
// with an optional label after a dot.
type messageAttribute struct {
	DataType    string
	StringValue *string `json:",omitempty"`
	BinaryValue []byte  `json:",omitempty"`
}

func (a messageAttribute) binary() bool {
	return a.DataType == "Binary" || strings.HasPrefix(a.DataType, "Binary.")
}
