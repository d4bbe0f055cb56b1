package fedroom

import "github.com/prometheus/client_golang/prometheus"

// metrics count what other servers cost and what they give. Labels are closed sets.
type metrics struct {
	received *prometheus.CounterVec // outcome: accepted, soft_failed, rejected, refused, staged
	repairs  *prometheus.CounterVec // outcome: healed, postponed, given_up, forged
	joins    *prometheus.CounterVec // outcome: joined, failed
	fetched  prometheus.Counter
	grafts   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	vec := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "myelin", Subsystem: "fedroom", Name: name, Help: help}, []string{"outcome"})
	}
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "myelin", Subsystem: "fedroom", Name: name, Help: help})
	}
	m := &metrics{
		received: vec("received_pdus_total", "Events of transactions of other servers."),
		repairs:  vec("repairs_total", "Attempts to fetch what events of other servers refer to."),
		joins:    vec("remote_joins_total", "Joins through other servers."),
		fetched:  count("fetched_pdus_total", "Events fetched from other servers."),
		grafts:   count("grafts_total", "Events whose state was taken from another server."),
	}
	if r != nil {
		r.MustRegister(m.received, m.repairs, m.joins, m.fetched, m.grafts)
	}
	return m
}
