package console

import "time"

// hour is how many minutes the rates are of.
const hour = 60

// rates are the events of the last hour, by minute and state.
type rates struct {
	minutes [hour]minute
}

type minute struct {
	unix   int64 // minutes since 1970
	counts [8]int32
}

func (r *rates) add(state uint8, at time.Time) {
	unix := at.Unix() / 60
	if unix < 0 {
		return
	}
	m := &r.minutes[unix%hour]
	if m.unix > unix {
		return // of an hour before
	}
	if m.unix != unix {
		*m = minute{unix: unix}
	}
	m.counts[state]++
}

// Rate is how many events led to a state in each minute of the last hour, the last of
// them being the minute that goes on.
type Rate struct {
	PerMinute [hour]int
	Last      int // in the last whole minute
	Sum, Most int
}

func (r *rates) read(now time.Time) []Rate {
	out := make([]Rate, len(states))
	first := now.Unix()/60 - hour + 1
	for _, m := range r.minutes {
		i := m.unix - first
		if i < 0 || i >= hour {
			continue
		}
		for s := range out {
			n := int(m.counts[s])
			out[s].PerMinute[i] = n
			out[s].Sum += n
			out[s].Most = max(out[s].Most, n)
			if i == hour-2 {
				out[s].Last = n
			}
		}
	}
	return out
}
