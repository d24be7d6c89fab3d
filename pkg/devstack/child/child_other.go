//go:build !linux

package child

import "syscall"

// attributes: a group of its own, so that a Ctrl-C in the terminal does not
// reach it. Only Linux ends children with their parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
