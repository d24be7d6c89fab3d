package watcher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// Lease says where the watchers of an installation choose their leader. One of
// them works; the others stand by with everything cached. Two leaders at once,
// as after a leader was frozen and thawed, are harmless: it is for economy.
type Lease struct {
	Namespace string
	Identity  string        // of this replica; empty: no election, this one leads
	Duration  time.Duration // how long a silent leader remains the leader
}

// leaseName is that of the installation's Lease. Watchers of different
// namespaces have different ones.
func leaseName(installation, namespace string) string {
	want := strings.Trim("jobrelay-watcher-"+installation+"-"+namespace, "-")
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(want))
	if name == want && len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	// A label value may hold what an object's name may not: the hash keeps two
	// installations apart.
	sum := sha256.Sum256([]byte(want))
	return strings.Trim(name, "-") + "-" + hex.EncodeToString(sum[:4])
}

// retryAfterLoss is between a lost leadership and the next candidacy.
const retryAfterLoss = time.Second

// elect stands for election until ctx ends, again after each loss, and gives
// the Lease up then.
func (w *Watcher) elect(ctx context.Context) {
	if w.options.Lease.Identity == "" {
		w.lead(ctx, true)
		return
	}
	l := w.options.Lease
	for ctx.Err() == nil {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: l.Namespace, Name: leaseName(w.options.Installation, w.options.Namespace)},
				Client:     w.client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: l.Identity},
			},
			// client-go's own proportions: 15, 10 and 2 seconds.
			LeaseDuration: l.Duration, RenewDeadline: l.Duration * 2 / 3, RetryPeriod: l.Duration * 2 / 15,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(leading context.Context) { w.lead(leading, true) },
				OnStoppedLeading: func() { w.lead(ctx, false) },
				OnNewLeader: func(identity string) {
					w.leader.Store(&identity)
					w.logger.Info().Str("leader", identity).Bool("self", identity == l.Identity).Msg("leader of the watchers")
				},
			},
		})
		if process.Sleep(ctx, retryAfterLoss) != nil {
			return
		}
	}
}

// lead takes up or lays down the work. Who takes it up looks at every Job.
func (w *Watcher) lead(ctx context.Context, yes bool) {
	w.leadMu.Lock() // the election's two callbacks may come at once
	defer w.leadMu.Unlock()
	if yes && ctx.Err() != nil {
		return // lost before it was begun
	}
	if w.leading.Swap(yes) == yes {
		return
	}
	w.metrics.leading.Set(map[bool]float64{true: 1}[yes])
	if !yes {
		if ctx.Err() == nil {
			w.logger.Warn().Msg("no longer the leader, standing by")
		}
		return
	}
	go w.lookAtAll(ctx)
}

// lookAtAll asks for a look at each Job that is there. Their logs are read first,
// many in a call.
func (w *Watcher) lookAtAll(ctx context.Context) {
	for jobs := range slices.Chunk(w.view.all(), broker.MostTails) {
		if ctx.Err() != nil {
			return
		}
		if err := w.readLogs(ctx, jobs); err != nil {
			w.logger.Debug().Err(err).Msg("logs are read one by one")
		}
		for _, job := range jobs {
			w.enqueue(job)
		}
	}
}

// readLogs remembers the logs of Jobs as they end now. One that is not about its Job
// is left to the look.
func (w *Watcher) readLogs(ctx context.Context, jobs []types.UID) error {
	names := make(map[types.UID]broker.LogName, len(jobs))
	for _, uid := range jobs {
		job, err := w.view.job(uid)
		if err != nil || job == nil {
			continue
		}
		if key := keyOf(job); key != "" {
			names[uid] = broker.LogName{Service: job.Labels[kubejob.LabelApp], Key: key}
		}
	}
	tails, err := w.log.Tails(ctx, slices.Collect(maps.Values(names)))
	if err != nil {
		return err
	}
	for uid, name := range names {
		if k := knownOf(name.Service, tails[name]); k.sequence > 0 && k.log.JobID == uid {
			w.view.remember(uid, k)
		}
	}
	return nil
}

// Leader says who leads: this replica, or the one that it stands by for. An
// error: nobody is known to.
func (w *Watcher) Leader() (string, error) {
	if w.leading.Load() {
		return "leading", nil
	}
	if leader := w.leader.Load(); leader != nil && *leader != "" && *leader != w.options.Lease.Identity {
		return fmt.Sprintf("standing by; %s leads", *leader), nil
	}
	return "", errors.New("no leader is known")
}
