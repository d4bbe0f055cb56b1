package sqldb

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are counters since Open.
type Stats struct {
	Reads      int64 // read transactions
	Commits    int64 // write transactions on disk
	Items      int64 // Write functions and Batcher items in them, failed ones included
	Statements int64 // statements executed by Tx methods
	Retries    int64 // write transactions run again after a conflict or a lost connection
	Failures   int64 // write transactions that failed as a whole
}

// Stats returns the counters. Tests use them to show that something needed no database read.
func (db *DB) Stats() Stats {
	m := db.metrics
	return Stats{m.reads.Load(), m.commits.Load(), m.items.Load(), m.statements.Load(), m.retries.Load(), m.failures.Load()}
}

type metrics struct {
	reads, commits, items, statements, retries, failures atomic.Int64

	commitItems   prometheus.Histogram
	commitSeconds prometheus.Histogram
	readSeconds   prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		commitItems: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "myelin_db_commit_items", Help: "Write functions and batched items in one transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "myelin_db_commit_seconds", Help: "Duration of a write transaction, fsync and retries included.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}),
		readSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "myelin_db_read_seconds", Help: "Duration of a read transaction, waiting for a connection included.",
			Buckets: prometheus.ExponentialBuckets(0.00002, 3, 14),
		}),
	}
	if reg == nil {
		return m
	}
	counter := func(name, help string, n *atomic.Int64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(n.Load()) }))
	}
	counter("myelin_db_reads_total", "Read transactions.", &m.reads)
	counter("myelin_db_commits_total", "Write transactions committed.", &m.commits)
	counter("myelin_db_statements_total", "Statements executed.", &m.statements)
	counter("myelin_db_retries_total", "Write transactions run again after a conflict or a lost connection.", &m.retries)
	counter("myelin_db_failures_total", "Write transactions that failed as a whole.", &m.failures)
	reg.MustRegister(m.commitItems, m.commitSeconds, m.readSeconds)
	return m
}
