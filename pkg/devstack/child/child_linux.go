package child

import "syscall"

// attributes: a group of its own, so that a Ctrl-C in the terminal does not
// reach it, and an end with this process, whichever way that ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
