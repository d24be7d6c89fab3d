package request

import (
	_ "crypto/sha256" // digests of images
	_ "crypto/sha512"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/reference"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The bounds of strings, in characters. Where Kubernetes has one, its
// validation is asked instead.
const (
	MaxID         = 256  // of an id
	maxPrefixName = 54   // 63 less a dash and 8 of hash
	maxImage      = 1024 // 255 of name, 128 of tag, and a digest
	maxMountPath  = 4096 // PATH_MAX
	maxURL        = 2048
)

func identifier(s string) (code, message string) {
	switch {
	case s == "":
		return CodeInvalid, "must not be empty"
	case utf8.RuneCountInString(s) > MaxID:
		return tooLong(MaxID)
	case strings.ContainsFunc(s, unicode.IsControl):
		return CodeInvalid, "must not have control characters"
	}
	return "", ""
}

// IsService reports whether a message's service may be s.
func IsService(s string) bool {
	code, _ := service(s)
	return code == ""
}

func service(s string) (code, message string) {
	if s == "" {
		return CodeInvalid, "must not be empty"
	}
	return labelValue(s)
}

func prefixName(s string) (code, message string) {
	switch {
	case len(s) > maxPrefixName:
		return tooLong(maxPrefixName)
	case len(validation.IsDNS1035Label(s)) > 0:
		return CodeInvalid, "must be of lower-case letters, digits and '-', start with a letter and end with a letter or digit"
	}
	return "", ""
}

func dnsLabel(s string) (code, message string) {
	switch {
	case len(s) > validation.DNS1123LabelMaxLength:
		return tooLong(validation.DNS1123LabelMaxLength)
	case len(validation.IsDNS1123Label(s)) > 0:
		return CodeInvalid, "must be of lower-case letters, digits and '-', and start and end with a letter or digit"
	}
	return "", ""
}

func dnsSubdomain(s string) (code, message string) {
	switch {
	case len(s) > validation.DNS1123SubdomainMaxLength:
		return tooLong(validation.DNS1123SubdomainMaxLength)
	case len(validation.IsDNS1123Subdomain(s)) > 0:
		return CodeInvalid, "must be of lower-case letters, digits, '-' and '.', and start and end with a letter or digit"
	}
	return "", ""
}

func labelKey(s string) (code, message string) {
	if len(validation.IsQualifiedName(s)) > 0 {
		return CodeInvalid, "must be a Kubernetes label key: a name of at most 63 letters, digits, '-', '_' and '.', after an optional DNS domain and '/'"
	}
	return "", ""
}

func labelValue(s string) (code, message string) {
	switch {
	case len(s) > validation.LabelValueMaxLength:
		return tooLong(validation.LabelValueMaxLength)
	case len(validation.IsValidLabelValue(s)) > 0:
		return CodeInvalid, "must be a Kubernetes label value: letters, digits, '-', '_' and '.', a letter or digit first and last"
	}
	return "", ""
}

// envName is what API servers since 1.32 take.
func envName(s string) (code, message string) {
	if len(validation.IsRelaxedEnvVarName(s)) > 0 {
		return CodeInvalid, "must be of printable ASCII characters other than '=', and not empty"
	}
	return "", ""
}

// noNUL is the rule of what a process is given: its system ends strings at a
// NUL, so that it could never start.
func noNUL(s string) (code, message string) {
	if strings.IndexByte(s, 0) >= 0 {
		return CodeInvalid, "must not have a NUL character"
	}
	return "", ""
}

// image wants what the kubelet can parse: a name with an optional registry, tag
// and digest.
func image(s string) (code, message string) {
	if utf8.RuneCountInString(s) > maxImage {
		return tooLong(maxImage)
	}
	if _, err := reference.ParseNormalizedNamed(s); err != nil {
		return CodeInvalid, "must be an image reference: [registry/]name[:tag][@digest], the name in lower case"
	}
	return "", ""
}

func mountPath(s string) (code, message string) {
	switch {
	case utf8.RuneCountInString(s) > maxMountPath:
		return tooLong(maxMountPath)
	case strings.Contains(s, ":") || strings.ContainsFunc(s, unicode.IsControl):
		return CodeInvalid, "must not have ':' or control characters"
	case slices.Contains(strings.Split(s, "/"), ".."):
		return CodeInvalid, "must not have '..'"
	case strings.Trim(s, "./") == "" && !strings.Contains(s, "..."):
		return CodeInvalid, "must name a folder other than '/'"
	}
	return "", ""
}

// webhookURL wants an address that every reader takes for the same.
func webhookURL(s string) (code, message string) {
	if utf8.RuneCountInString(s) > maxURL {
		return tooLong(maxURL)
	}
	odd := func(c rune) bool { return c == '\\' || unicode.IsSpace(c) || unicode.IsControl(c) }
	u, err := url.Parse(s)
	switch {
	case err != nil || strings.ContainsFunc(s, odd):
		return CodeInvalid, "must be a URL"
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return CodeInvalid, "must be an absolute http or https URL"
	case u.User != nil:
		return CodeInvalid, "must not have a user or password"
	case strings.Contains(s, "#"):
		return CodeInvalid, "must not have a fragment"
	case strings.Contains(u.Hostname(), "%"):
		return CodeInvalid, "must not have a zone"
	case strings.ContainsFunc(u.Hostname(), func(c rune) bool { return odd(c) || c == utf8.RuneError || strings.ContainsRune(`"<>[]`, c) }):
		return CodeInvalid, "must have a host that every reader takes for the same" // also out of its escapes
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return CodeInvalid, "must have a port from 1 to 65535, or none"
		}
	}
	return "", ""
}

func tooLong(limit int) (code, message string) {
	return CodeTooLong, fmt.Sprintf("must have at most %d characters", limit)
}
