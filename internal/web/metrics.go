package web

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Label values: op is an operation id of the route table or "unrecognized"; class is one of
// outcomes; limit is the name of a Rate class; scope is "user", "server" or "address".
var outcomes = [...]string{"2xx", "3xx", "4xx", "5xx", "gone"}

const outcomeGone = len(outcomes) - 1

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	limited  *prometheus.CounterVec
	inFlight prometheus.Gauge
	panics   prometheus.Counter
}

// routeMetrics are a route's own counters, looked up once.
type routeMetrics struct {
	outcomes [len(outcomes)]prometheus.Counter
	seconds  prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "myelin_http_requests_total",
			Help: "Requests answered, by operation and class of status; gone: the client left before the answer.",
		}, []string{"op", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "myelin_http_request_seconds",
			Help:    "Time from a request's headers to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"op"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "myelin_http_limited_total",
			Help: "Requests refused because their sender was too fast.",
		}, []string{"limit", "scope"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "myelin_http_in_flight",
			Help: "Requests being handled, waiting long polls included.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "myelin_http_panics_total",
			Help: "Handlers that panicked. Each is a bug; its stack is in the log.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.limited, m.inFlight, m.panics)
	}
	return m
}

func (m *metrics) of(op string) *routeMetrics {
	r := &routeMetrics{seconds: m.seconds.WithLabelValues(op)}
	for i, class := range outcomes {
		r.outcomes[i] = m.requests.WithLabelValues(op, class)
	}
	return r
}

func (r *routeMetrics) done(status int, left bool, took time.Duration) {
	outcome := outcomeGone
	if !left {
		outcome = min(max(status/100-2, 0), 3)
	}
	r.outcomes[outcome].Inc()
	r.seconds.Observe(took.Seconds())
}
