package main

import (
	"runtime"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// othersCPU is the share of all cores, in percent, that went to what is none of
// ours during a run, from its start to the end of all that it started: a run on
// a machine that is not quiet is worth little.
const othersCPU = "CPU of others, %"

// cpuTime is how much CPU time has been used until a moment, since ever.
type cpuTime struct {
	at        time.Time
	all, ours float64 // seconds: by the whole machine; by this process and the children that have ended
	known     bool
}

// usage is known on Linux only.
func usage() cpuTime {
	u := cpuTime{at: time.Now()}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return u
	}
	stat, err := fs.Stat()
	if err != nil {
		return u
	}
	t := stat.CPUTotal
	u.all = t.User + t.Nice + t.System + t.IRQ + t.SoftIRQ + t.Steal
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if syscall.Getrusage(who, &r) != nil {
			return u
		}
		u.ours += time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
	}
	u.known = true
	return u
}

// othersUntil is the share of the cores that others had between the two.
func (u cpuTime) othersUntil(later cpuTime) (share float64, known bool) {
	if !u.known || !later.known {
		return 0, false
	}
	others := (later.all - u.all) - (later.ours - u.ours)
	return max(others, 0) / later.at.Sub(u.at).Seconds() / float64(runtime.NumCPU()), true
}
