package event

import (
	"testing"
)

func BenchmarkParse(b *testing.B) {
	v := version(b, "12")
	raw := build(b, v, sample(v)).Raw()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(v, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTrusted(b *testing.B) {
	v := version(b, "12")
	p := build(b, v, sample(v))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Trusted(v, p.ID(), p.Raw()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	v, key := version(b, "12"), testKey(b)
	d := sample(v)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Build(v, "example.org", key, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHashOK(b *testing.B) {
	v := version(b, "12")
	p := build(b, v, sample(v))
	b.ReportAllocs()
	for b.Loop() {
		if !p.HashOK() {
			b.Fatal("wrong")
		}
	}
}

func BenchmarkReferenceHash(b *testing.B) {
	v := version(b, "12")
	p := build(b, v, sample(v))
	b.ReportAllocs()
	for b.Loop() {
		referenceHash(v, p.raw)
	}
}

func BenchmarkAppendClient(b *testing.B) {
	v := version(b, "12")
	p := build(b, v, sample(v))
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		p.AppendClient(dst, ClientFormat{})
	}
}
