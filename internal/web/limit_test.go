package web

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	b := newBuckets[string](Limit{PerSecond: 2, Burst: 3})
	now := time.Unix(1000, 0)
	for range 3 {
		if wait := b.take("a", now); wait != 0 {
			t.Fatalf("waits %s within its burst", wait)
		}
	}
	// A refused request costs nothing, or a client that retries would never get through.
	for range 10 {
		if wait := b.take("a", now); wait != 500*time.Millisecond {
			t.Fatalf("waits %s, want 500ms", wait)
		}
	}
	if wait := b.take("b", now); wait != 0 {
		t.Error("one caller pays for another")
	}
	if wait := b.take("a", now.Add(500*time.Millisecond)); wait != 0 {
		t.Errorf("waits %s after the time it was told", wait)
	}
}

func TestBucketsAreBounded(t *testing.T) {
	b := newBuckets[int](Limit{PerSecond: 1, Burst: 1})
	now := time.Unix(1000, 0)
	for i := range bucketShards * shardSize * 2 {
		b.take(i, now)
	}
	total := 0
	for i := range b.shards {
		total += len(b.shards[i].of)
	}
	if total > bucketShards*shardSize {
		t.Errorf("remembers %d callers, more than %d", total, bucketShards*shardSize)
	}
	// Once they are full again all are forgotten at the next newcomer in a full shard.
	shard := &b.shards[0]
	shard.evict(b.limit, now.Add(time.Minute))
	if len(shard.of) != 0 {
		t.Errorf("%d full buckets are kept", len(shard.of))
	}
}

func TestAddressLimitCoversNetworks(t *testing.T) {
	var limits Limits
	limits.Address[RateGeneral] = Limit{PerSecond: 1, Burst: 1}
	l := newLimiter(limits)
	now := time.Unix(1000, 0)
	take := func(s string) bool { return l.takeAddress(RateGeneral, netip.MustParseAddr(s), now) == 0 }
	if !take("2001:db8::1") || take("2001:db8::2") || !take("2001:db8:0:1::1") {
		t.Error("an IPv6 /64 must count as one address")
	}
	if !take("192.0.2.1") || !take("192.0.2.2") || take("192.0.2.1") {
		t.Error("each IPv4 address must count on its own")
	}
}

func TestClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:99", nil, "192.0.2.1"},
		{"192.0.2.1:99", []string{"203.0.113.9"}, "192.0.2.1"},
		{"10.0.0.1:99", []string{"203.0.113.9"}, "203.0.113.9"},
		{"[::1]:99", []string{"203.0.113.9"}, "203.0.113.9"},
		{"[::ffff:10.0.0.1]:99", []string{"203.0.113.9"}, "203.0.113.9"},
		{"10.0.0.1:99", []string{"1.1.1.1, 203.0.113.9, 10.2.2.2"}, "203.0.113.9"},
		{"10.0.0.1:99", []string{"1.1.1.1", "203.0.113.9", "10.2.2.2"}, "203.0.113.9"},
		{"10.0.0.1:99", []string{"203.0.113.9:4711"}, "203.0.113.9"},
		{"10.0.0.1:99", []string{"[2001:db8::5]:4711"}, "2001:db8::5"},
		{"10.0.0.1:99", []string{"[2001:db8::5]"}, "2001:db8::5"},
		{"10.0.0.1:99", []string{"nonsense"}, "10.0.0.1"},
		{"10.0.0.1:99", []string{"203.0.113.9, unknown"}, "10.0.0.1"},
		{"10.0.0.1:99", []string{"10.3.3.3"}, "10.3.3.3"},
		{"@", []string{"203.0.113.9"}, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if got := clientAddress(r, trusted).String(); got != c.want {
			t.Errorf("%s forwarding for %q: got %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
}

func FuzzClientAddress(f *testing.F) {
	f.Add("10.0.0.1:1", "1.1.1.1, [2001:db8::5]:4711")
	f.Add("[fe80::1%eth0]:1", "fe80::1%x")
	trusted := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	l := newLimiter(DefaultLimits())
	f.Fuzz(func(t *testing.T, peer, forwarded string) {
		addr := clientAddress(&http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {forwarded}}}, trusted)
		if addr.Zone() != "" {
			t.Fatal("an address with a zone can be varied at will")
		}
		l.takeAddress(RateGeneral, addr, time.Unix(1, 0))
	})
}

func BenchmarkTake(b *testing.B) {
	buckets := newBuckets[string](Limit{PerSecond: 1e9, Burst: 1e9})
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("@user%d:test", i)
	}
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		buckets.take(keys[i%len(keys)], now)
	}
}
