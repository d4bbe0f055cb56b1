package web

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limit is a token bucket: PerSecond requests on average, and up to Burst at once.
type Limit struct {
	PerSecond float64
	Burst     int
}

// Limits holds the limits of each class, for each user (or each server, on routes that servers call) and for
// each address. A limit whose Burst is 0 limits nothing.
type Limits struct {
	User    [rateClasses]Limit
	Address [rateClasses]Limit
}

// DefaultLimits are generous to people and their clients, and strict where credentials are
// tested. Many users may share an address.
func DefaultLimits() Limits {
	var l Limits
	l.User[RateGeneral] = Limit{PerSecond: 50, Burst: 200}
	l.User[RateSend] = Limit{PerSecond: 10, Burst: 50}
	l.User[RateLogin] = Limit{PerSecond: 0.2, Burst: 10}
	l.User[RateServer] = Limit{PerSecond: 100, Burst: 500}
	l.User[RateHeavy] = Limit{PerSecond: 5, Burst: 100}
	l.Address[RateGeneral] = Limit{PerSecond: 200, Burst: 1000}
	l.Address[RateSend] = Limit{PerSecond: 100, Burst: 500}
	l.Address[RateLogin] = Limit{PerSecond: 0.5, Burst: 20}
	l.Address[RateServer] = Limit{PerSecond: 200, Burst: 1000}
	l.Address[RateHeavy] = Limit{PerSecond: 10, Burst: 200}
	return l
}

// limiter counts requests in memory. Forgetting it all, as a restart does, errs on the side
// of the caller.
type limiter struct {
	user    [rateClasses]*buckets[string]
	address [rateClasses]*buckets[netip.Prefix]
}

func newLimiter(l Limits) *limiter {
	out := new(limiter)
	for c := range rateClasses {
		out.user[c] = newBuckets[string](l.User[c])
		out.address[c] = newBuckets[netip.Prefix](l.Address[c])
	}
	return out
}

// takeAddress counts a request against its sender's address, and returns how long to wait
// where it came too soon. l may be nil: then nothing is limited.
func (l *limiter) takeAddress(class Rate, addr netip.Addr, now time.Time) time.Duration {
	if l == nil || class >= RateNone || !addr.IsValid() {
		return 0
	}
	prefix := prefixOf(addr)
	if !prefix.IsValid() {
		return 0
	}
	return l.address[class].take(prefix, now)
}

// prefixOf is what counts as one address: whoever has one IPv6 address has its whole /64. It is not valid where the address isn't.
func prefixOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

func (l *limiter) takeUser(class Rate, user string, now time.Time) time.Duration {
	if l == nil || class >= RateNone || user == "" {
		return 0
	}
	return l.user[class].take(user, now)
}

const (
	bucketShards = 16
	// shardSize bounds the callers that a shard remembers: about a hundred bytes each.
	shardSize = 4096
)

// buckets holds one token bucket for each key.
type buckets[K comparable] struct {
	limit  Limit
	seed   maphash.Seed
	shards [bucketShards]bucketShard[K]
}

type bucketShard[K comparable] struct {
	mu sync.Mutex // guards of
	of map[K]*rate.Limiter
}

func newBuckets[K comparable](limit Limit) *buckets[K] {
	b := &buckets[K]{limit: limit, seed: maphash.MakeSeed()}
	for i := range b.shards {
		b.shards[i].of = make(map[K]*rate.Limiter)
	}
	return b
}

// take takes one token, or returns how long it will be until there is one.
func (b *buckets[K]) take(key K, now time.Time) time.Duration {
	if b.limit.Burst <= 0 {
		return 0
	}
	shard := &b.shards[maphash.Comparable(b.seed, key)%bucketShards]
	shard.mu.Lock()
	bucket := shard.of[key]
	if bucket == nil {
		if len(shard.of) >= shardSize {
			shard.evict(b.limit, now)
		}
		bucket = rate.NewLimiter(rate.Limit(b.limit.PerSecond), b.limit.Burst)
		shard.of[key] = bucket
	}
	shard.mu.Unlock()

	reservation := bucket.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// evict drops the buckets that are full again, which loses nothing, and any others until an
// eighth of the shard is free.
func (s *bucketShard[K]) evict(limit Limit, now time.Time) {
	for key, bucket := range s.of {
		if bucket.TokensAt(now) >= float64(limit.Burst) {
			delete(s.of, key)
		}
	}
	for key := range s.of {
		if len(s.of) <= shardSize*7/8 {
			return
		}
		delete(s.of, key)
	}
}
