package appservice

import "github.com/prometheus/client_golang/prometheus"

// metrics count what goes to all application services together.
type metrics struct {
	events       prometheus.Counter
	transactions *prometheus.CounterVec // by outcome: sent, failed
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "myelin", Subsystem: "appservice", Name: "events_total", Help: "Events that application services took.",
		}),
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "myelin", Subsystem: "appservice", Name: "transactions_total", Help: "Attempts to send a transaction to an application service.",
		}, []string{"outcome"}),
	}
	if r != nil {
		r.MustRegister(m.events, m.transactions)
	}
	return m
}
