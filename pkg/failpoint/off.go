//go:build !failpoint

package failpoint

// Here does nothing: this binary was built without the tag failpoint.
func Here(Point) {}
