package fedsend

import "github.com/prometheus/client_golang/prometheus"

// metrics count by outcome and kind; both lists are closed.
type metrics struct {
	transactions *prometheus.CounterVec // outcome: ok, failed
	items        *prometheus.CounterVec // kind: pdu, edu
	dropped      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Sender) *metrics {
	name := func(n string) prometheus.Opts {
		return prometheus.Opts{Namespace: "myelin", Subsystem: "federation_sender", Name: n}
	}
	opts := func(n, help string) prometheus.CounterOpts {
		o := prometheus.CounterOpts(name(n))
		o.Help = help
		return o
	}
	m := &metrics{
		transactions: prometheus.NewCounterVec(opts("transactions_total", "Transactions sent to other servers."), []string{"outcome"}),
		items:        prometheus.NewCounterVec(opts("items_total", "PDUs and EDUs that arrived at other servers."), []string{"kind"}),
		dropped:      prometheus.NewCounter(opts("edus_dropped_total", "EDUs that were not sent because too many waited.")),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.transactions, m.items, m.dropped)
	gauge := func(n, help string, value func(l *leader) int) {
		o := prometheus.GaugeOpts(name(n))
		o.Help = help
		reg.MustRegister(prometheus.NewGaugeFunc(o, func() float64 { return float64(s.count(value)) }))
	}
	gauge("waiting", "Servers that something waits for, on the node that sends.", func(l *leader) int { return len(l.links) })
	gauge("failing", "Servers that fail, on the node that sends.", func(l *leader) int {
		n := 0
		for _, k := range l.links {
			if !k.failingSince.IsZero() {
				n++
			}
		}
		return n
	})
	return m
}

// count asks the leader, if it is on this node.
func (s *Sender) count(value func(l *leader) int) int {
	s.mu.Lock()
	l := s.leading
	s.mu.Unlock()
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return value(l)
}

// sent counts a transaction that arrived.
func (m *metrics) sent(f *flight) {
	m.transactions.WithLabelValues("ok").Inc()
	m.items.WithLabelValues("pdu").Add(float64(len(f.events)))
	m.items.WithLabelValues("edu").Add(float64(len(f.render())))
}
