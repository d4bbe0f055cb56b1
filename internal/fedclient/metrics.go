package fedclient

import "github.com/prometheus/client_golang/prometheus"

// metrics count by operation of the specification and by outcome; both lists are closed.
type metrics struct {
	requests *prometheus.CounterVec   // operation, outcome: ok, refused, unreachable, backoff, forbidden
	seconds  *prometheus.HistogramVec // operation
	keys     *prometheus.CounterVec   // from: server, notary; outcome: ok, failed
	checked  *prometheus.CounterVec   // outcome: ok, redacted, malformed, signature, keys
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "myelin_federation_requests_total", Help: "Requests to other servers."}, []string{"operation", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "myelin_federation_request_seconds", Help: "Duration of requests to other servers up to the head of the answer, waiting for a free slot included.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 8),
		}, []string{"operation"}),
		keys:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "myelin_federation_key_fetches_total", Help: "Fetches of other servers' keys."}, []string{"from", "outcome"}),
		checked: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "myelin_federation_pdus_checked_total", Help: "PDUs whose format, signatures and hash were checked."}, []string{"outcome"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.keys, m.checked)
	}
	return m
}
