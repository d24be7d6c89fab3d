package request

import (
	"errors"
	"regexp"

	"k8s.io/apimachinery/pkg/api/resource"
)

// maxQuantity is the largest amount of CPU or bytes: 1P, which fits 64 bits
// also in thousandths.
var maxQuantity = *resource.NewScaledQuantity(1, resource.Peta)

// Bounded before it is parsed: a quantity of 12 bytes, 1e999999999, would
// otherwise be worked out digit by digit.
const maxQuantityBytes = 32

var quantityForm = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$`)

// The errors of ParseQuantity.
var (
	errQuantityForm  = errors.New("must be a Kubernetes quantity of at most 32 characters, such as 500m, 1.5 or 256Mi")
	errQuantityRange = errors.New("must be from 0 to 1P")
)

// ParseQuantity reads an amount of CPU or memory, from 0 to 1P, in at most 32
// characters. What is finer than a billionth is rounded up, as in Kubernetes.
// It never panics, and its errors do not repeat the text.
func ParseQuantity(s string) (resource.Quantity, error) {
	if len(s) > maxQuantityBytes || !quantityForm.MatchString(s) {
		return resource.Quantity{}, errQuantityForm
	}
	q, err := resource.ParseQuantity(s)
	if err != nil {
		return resource.Quantity{}, errQuantityForm
	}
	if q.Sign() < 0 || q.Cmp(maxQuantity) > 0 {
		return resource.Quantity{}, errQuantityRange
	}
	return q, nil
}

func quantity(s string) (code, message string) {
	switch _, err := ParseQuantity(s); {
	case err == nil:
		return "", ""
	case errors.Is(err, errQuantityRange):
		return CodeRange, err.Error()
	default:
		return CodeInvalid, err.Error()
	}
}
