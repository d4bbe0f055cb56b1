package canon

import (
	"encoding/json"
	"testing"
)

// sample is an event of about 1 KB as a server sends it: keys unsorted, no white space.
var sample = []byte(`{"auth_events":["$mDf3sUPBNoWVp4fN0Sh5h5zdX0SJ1SmAPdmnjZkSMRc","$4WDPBDTsLvSxvp6fPz2yz7CcSzQXpRvxb4QUGtXqvEM","$XUcAqJcQZP6VnKd6B7dHkNjyjLyMm4CE4BfkXOYbVQw"],"prev_events":["$kY8hW4EIpTkjrVTv9OfLO8l0JrN3DA5mX5kW1dWyzxE"],"type":"m.room.message","room_id":"!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ","sender":"@somebody:matrix.example.org","content":{"msgtype":"m.text","body":"Ein Satz mit Umlauten: größer, schöner, weiter. And some more text, so that it has an ordinary length.\nSecond line.","format":"org.matrix.custom.html","formatted_body":"<p>Ein Satz mit Umlauten: größer, schöner, weiter.</p>","m.mentions":{"user_ids":["@other:example.com"]},"m.relates_to":{"rel_type":"m.thread","event_id":"$zzZ8hW4EIpTkjrVTv9OfLO8l0JrN3DA5mX5kW1dWyzxE"}},"depth":12876,"origin_server_ts":1735732824653,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"signatures":{"matrix.example.org":{"ed25519:a_abcd":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"unsigned":{"age_ts":1735732824653}}`)

func BenchmarkCanonicalize(b *testing.B) {
	ordered, err := Canonicalize(nil, sample, Strict)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		src  []byte
	}{{"unordered", sample}, {"ordered", ordered}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.src)))
			b.ReportAllocs()
			dst := make([]byte, 0, 2*len(sample))
			for b.Loop() {
				if _, err := Canonicalize(dst, c.src, Strict); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("encoding_json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v any
			if err := json.Unmarshal(sample, &v); err != nil {
				b.Fatal(err)
			}
			if _, err := json.Marshal(v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	ordered, err := Canonicalize(nil, sample, Strict)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Get(ordered, "type"); !ok {
			b.Fatal("not found")
		}
	}
}
