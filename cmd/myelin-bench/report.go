package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// metric is one measured number.
type metric struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// metrics keeps the order in which they were measured.
type metrics []metric

func (m *metrics) add(name string, value float64, unit string) {
	*m = append(*m, metric{name, value, unit})
}

func (m *metrics) duration(name string, d time.Duration) {
	m.add(name, float64(d.Microseconds())/1000, "ms")
}

// times adds the usual percentiles of a histogram.
func (m *metrics) times(prefix string, h *histogram) {
	m.duration(prefix+" p50", h.quantile(0.5))
	m.duration(prefix+" p99", h.quantile(0.99))
	m.duration(prefix+" max", h.longer)
}

func (m metrics) get(name string) (float64, bool) {
	at := slices.IndexFunc(m, func(x metric) bool { return x.Name == name })
	if at < 0 {
		return 0, false
	}
	return m[at].Value, true
}

// median takes the median of each metric over several runs; failures are added up instead.
func median(runs []metrics) metrics {
	if len(runs) == 0 {
		return nil
	}
	var out metrics
	for _, first := range runs[0] {
		var values []float64
		for _, r := range runs {
			if v, ok := r.get(first.Name); ok {
				values = append(values, v)
			}
		}
		slices.Sort(values)
		first.Value = values[len(values)/2]
		if len(values)%2 == 0 {
			first.Value = (values[len(values)/2-1] + first.Value) / 2
		}
		if first.Unit == failures {
			first.Value = 0
			for _, v := range values {
				first.Value += v
			}
		}
		out = append(out, first)
	}
	return out
}

// failures is the unit of what must not be averaged away.
const failures = "failures"

// result is the outcome of one scenario.
type result struct {
	Scenario string    `json:"scenario"`
	Server   string    `json:"server"` // what /versions and /_matrix/federation/v1/version say, if anything
	Started  time.Time `json:"started"`
	Runs     int       `json:"runs"`
	Settings []string  `json:"settings"`
	Metrics  metrics   `json:"metrics"`
	Each     []metrics `json:"each,omitempty"` // the runs, if there was more than one
}

func (r result) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s", r.Scenario)
	if len(r.Settings) > 0 {
		fmt.Fprintf(w, "  %v", r.Settings)
	}
	if r.Runs > 1 {
		fmt.Fprintf(w, "  median of %d", r.Runs)
	}
	fmt.Fprintln(w)
	for _, m := range r.Metrics {
		fmt.Fprintf(w, "  %-34s %14s %s\n", m.Name, number(m.Value), m.Unit)
	}
}

// number shows three or more significant digits and no exponent.
func number(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 1000 || v <= -1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.1f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func writeJSON(w io.Writer, results []result) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(results)
}
