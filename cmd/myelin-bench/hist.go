package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets of about three percent. The zero value is ready.
type histogram struct {
	count  [buckets]uint32
	total  uint64
	longer time.Duration // the longest
}

// fine is the number of buckets per power of two; the last power is 2^40 ns, about 18 minutes.
const (
	fineBits = 5
	fine     = 1 << fineBits
	buckets  = (41 - fineBits + 1) * fine
)

func (h *histogram) add(d time.Duration) {
	h.count[bucketOf(d)]++
	h.total++
	h.longer = max(h.longer, d)
}

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < fine {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - fineBits
	return min((shift+1)*fine+int(v>>shift)&(fine-1), buckets-1)
}

// valueOf returns the middle of a bucket.
func valueOf(bucket int) time.Duration {
	if bucket < fine {
		return time.Duration(bucket)
	}
	shift := bucket/fine - 1
	low := uint64(fine+bucket%fine) << shift
	return time.Duration(low + uint64(1)<<shift/2)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.count {
		h.count[i] += n
	}
	h.total += o.total
	h.longer = max(h.longer, o.longer)
}

// quantile returns the duration below which the part q of all lies; 0 without any.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.total))
	var seen uint64
	for i, n := range h.count {
		if seen += uint64(n); seen > rank {
			return min(valueOf(i), h.longer)
		}
	}
	return h.longer
}
