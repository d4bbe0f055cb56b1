package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/color/palette"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"testing"

	"myelin/matrix/mxerr"
)

// quarters is an image whose upper left quarter is red, the upper right one green, the lower left one blue and the lower right one white.
func quarters(w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{255, 255, 255, 255}
			switch {
			case x < w/2 && y < h/2:
				c = color.RGBA{255, 0, 0, 255}
			case y < h/2:
				c = color.RGBA{0, 255, 0, 255}
			case x < w/2:
				c = color.RGBA{0, 0, 255, 255}
			}
			m.SetRGBA(x, y, c)
		}
	}
	return m
}

// corners names the colours of an image's corners, from the upper left one clockwise.
func corners(m image.Image) string {
	b := m.Bounds()
	out := ""
	for _, p := range []image.Point{b.Min, {b.Max.X - 1, b.Min.Y}, {b.Max.X - 1, b.Max.Y - 1}, {b.Min.X, b.Max.Y - 1}} {
		r, g, b, _ := m.At(p.X, p.Y).RGBA()
		switch r, g, b := r > 0x8000, g > 0x8000, b > 0x8000; {
		case r && g && b:
			out += "w"
		case r:
			out += "r"
		case g:
			out += "g"
		case b:
			out += "b"
		default:
			out += "?"
		}
	}
	return out
}

func encoded(t testing.TB, m image.Image, kind string) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch kind {
	case typePNG:
		err = png.Encode(&b, m)
	case typeJPEG:
		err = jpeg.Encode(&b, m, &jpeg.Options{Quality: 95})
	case typeGIF:
		err = gif.Encode(&b, m, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// turned puts EXIF data with an orientation into a JPEG.
func turned(jpg []byte, order binary.AppendByteOrder, value uint16) []byte {
	exif := []byte("Exif\x00\x00II*\x00")
	if order == binary.AppendByteOrder(binary.BigEndian) {
		exif = []byte("Exif\x00\x00MM\x00*")
	}
	exif = order.AppendUint32(exif, 8)
	exif = order.AppendUint16(exif, 2)
	exif = append(exif, make([]byte, 12)...) // another tag
	exif = order.AppendUint16(exif, 0x0112)
	exif = order.AppendUint16(exif, 3)
	exif = order.AppendUint32(exif, 1)
	exif = order.AppendUint16(exif, value)
	exif = append(exif, 0, 0)
	segment := binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(exif)+2))
	return append(append(append([]byte{0xff, 0xd8}, segment...), exif...), jpg[2:]...)
}

func shrunk(t testing.TB, raw []byte, size Size) (*image.RGBA, picture) {
	t.Helper()
	p, err := inspect(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.shrink(bytes.NewReader(raw), size)
	if err != nil {
		t.Fatal(err)
	}
	return m, p
}

// TestOrientation: a picture is seen as it was taken, whichever way the camera was held.
func TestOrientation(t *testing.T) {
	jpg := encoded(t, quarters(200, 120), typeJPEG)
	for value, want := range []string{1: "rgwb", 2: "grbw", 3: "wbrg", 4: "bwgr", 5: "rbwg", 6: "brgw", 7: "wgrb", 8: "gwbr"} {
		if value == 0 {
			continue
		}
		for _, order := range []binary.AppendByteOrder{binary.BigEndian, binary.LittleEndian} {
			m, p := shrunk(t, turned(jpg, order, uint16(value)), Size{Width: 60, Height: 60})
			wantSize := image.Pt(100, 60)
			if value >= 5 {
				wantSize = image.Pt(60, 100)
			}
			if got := corners(m); got != want || m.Rect.Size() != wantSize || p.turn != orientation(value) {
				t.Errorf("orientation %d: %s, %v", value, got, m.Rect.Size())
			}
		}
	}
	for _, value := range []uint16{0, 9, 300} {
		if m, _ := shrunk(t, turned(jpg, binary.BigEndian, value), Size{Width: 60, Height: 60}); corners(m) != "rgwb" {
			t.Errorf("orientation %d: %s", value, corners(m))
		}
	}
}

// TestShape: never larger than the image, never smaller than wanted unless the image is.
//
// Spec: cs Thumbnails
func TestShape(t *testing.T) {
	for w := 1; w <= 60; w += 7 {
		for h := 1; h <= 60; h += 5 {
			for _, s := range []Size{{32, 32, false, false}, {10, 50, false, false}, {32, 32, true, false}, {10, 40, true, false}, {40, 7, true, false}} {
				cutW, cutH, outW, outH := s.shape(w, h)
				if cutW < 1 || cutH < 1 || cutW > w || cutH > h || outW < 1 || outH < 1 || outW > cutW || outH > cutH {
					t.Fatalf("%+v of %dx%d: cut %dx%d, out %dx%d", s, w, h, cutW, cutH, outW, outH)
				}
				if !s.Crop && (outW < min(w, s.Width) || outH < min(h, s.Height)) {
					t.Errorf("%+v of %dx%d is %dx%d", s, w, h, outW, outH)
				}
				if s.Crop && w >= s.Width && h >= s.Height && (outW != s.Width || outH != s.Height) {
					t.Errorf("%+v of %dx%d is %dx%d", s, w, h, outW, outH)
				}
			}
		}
	}
	for _, row := range [][8]int{
		// image, wanted, cut, out
		{800, 600, 32, 32, 800, 600, 43, 32},
		{600, 800, 32, 32, 600, 800, 32, 43},
		{6000, 10, 32, 32, 6000, 10, 6000, 10},
	} {
		cutW, cutH, outW, outH := Size{Width: row[2], Height: row[3]}.shape(row[0], row[1])
		if [4]int{cutW, cutH, outW, outH} != [4]int(row[4:]) {
			t.Errorf("%v: cut %dx%d, out %dx%d", row, cutW, cutH, outW, outH)
		}
	}
}

// TestKinds: each kind of image is read, and each kind of pixel.
func TestKinds(t *testing.T) {
	q := quarters(100, 100)
	paletted := image.NewPaletted(q.Rect, palette.Plan9)
	deep, clear := image.NewNRGBA64(q.Rect), image.NewNRGBA(q.Rect)
	for y := range 100 {
		for x := range 100 {
			paletted.Set(x, y, q.At(x, y))
			deep.Set(x, y, q.At(x, y))
			c := color.NRGBAModel.Convert(q.At(x, y)).(color.NRGBA)
			c.A = 128
			clear.Set(x, y, c)
		}
	}
	for name, row := range map[string]struct {
		raw  []byte
		kind string
	}{
		"PNG": {encoded(t, q, typePNG), typePNG}, "paletted": {encoded(t, paletted, typePNG), typePNG}, "deep": {encoded(t, deep, typePNG), typePNG},
		"JPEG": {encoded(t, q, typeJPEG), typeJPEG}, "GIF": {encoded(t, q, typeGIF), typePNG},
	} {
		m, p := shrunk(t, row.raw, Size{Width: 20, Height: 20, Crop: true})
		if corners(m) != "rgwb" || m.Rect.Size() != image.Pt(20, 20) || !m.Opaque() {
			t.Errorf("%s: %s %v", name, corners(m), m.Rect)
		}
		if kind := p.thumbnailType(m); kind != row.kind {
			t.Errorf("%s: %s", name, kind)
		}
	}
	m, _ := shrunk(t, encoded(t, clear, typePNG), Size{Width: 20, Height: 20})
	if c := color.NRGBAModel.Convert(m.At(1, 1)).(color.NRGBA); c.A != 128 || c.R < 250 || c.G > 5 {
		t.Errorf("a transparent pixel became %v", c)
	}
}

// TestMeans: a pixel is the mean of those it stands for.
func TestMeans(t *testing.T) {
	m := image.NewGray(image.Rect(5, 5, 11, 8)) // bounds that begin elsewhere
	for i := range m.Pix {
		m.Pix[i] = uint8(10 * i)
	}
	out := average(m, m.Rect, 2, 1)
	if got := [2]uint8{out.Pix[0], out.Pix[4]}; got != [2]uint8{70, 100} {
		t.Errorf("means %v", got)
	}
	out = average(m, m.Rect, 4, 3) // one and a half for each
	if got := [4]uint8{out.Pix[0], out.Pix[4], out.Pix[8], out.Pix[12]}; got != [4]uint8{3, 17, 33, 47} {
		t.Errorf("means of parts %v", got)
	}
	if out = average(m, m.Rect, 6, 3); out.Pix[4*7] != m.Pix[7] || out.Rect.Dx() != 6 {
		t.Errorf("as large: %v", out.Pix)
	}
}

// bomb is a PNG of a few bytes that claims sides.
func bomb(w, h uint32) []byte {
	head := append([]byte("IHDR"), make([]byte, 13)...)
	binary.BigEndian.PutUint32(head[4:], w)
	binary.BigEndian.PutUint32(head[8:], h)
	head[12], head[13] = 8, 6
	out := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	out = append(out, head...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(head))
}

// TestBombs: what would take too much memory or time is refused by what its head says.
func TestBombs(t *testing.T) {
	if _, err := inspect(bytes.NewReader(bomb(100_000, 10))); !errors.Is(err, ErrTooManyPixels) {
		t.Errorf("a long side: %v", err)
	}
	p, err := inspect(bytes.NewReader(bomb(30_000, 30_000)))
	if err != nil || p.memory <= maxDecoding {
		t.Errorf("many pixels: %+v %v", p, err)
	}
	jpg := encoded(t, quarters(64, 64), typeJPEG)
	frame := bytes.Index(jpg, []byte{0xff, 0xc0})
	binary.BigEndian.PutUint16(jpg[frame+5:], 20_000)
	binary.BigEndian.PutUint16(jpg[frame+7:], 20_000)
	if p, err = inspect(bytes.NewReader(jpg)); err != nil || p.memory <= maxDecoding {
		t.Errorf("a large JPEG: %+v %v", p, err)
	}
	jpg[frame+1] = 0xc2
	binary.BigEndian.PutUint16(jpg[frame+5:], 4000)
	binary.BigEndian.PutUint16(jpg[frame+7:], 6000)
	if p, err = inspect(bytes.NewReader(jpg)); err != nil || p.memory > maxDecoding {
		t.Errorf("24 megapixels: %+v %v", p, err)
	}
	var scans bytes.Buffer
	for range maxScans + 1 {
		scans.Write([]byte{0xff, 0xda, 0, 0xff})
	}
	counter := &scanCounter{from: &scans}
	var failed error
	for one := make([]byte, 1); failed == nil; { // a byte at a time, so that markers are torn
		_, failed = counter.Read(one)
	}
	if !errors.Is(failed, errScans) {
		t.Errorf("many scans: %v", failed)
	}
	for name, raw := range map[string][]byte{"nothing": nil, "text": []byte("hello"), "SVG": []byte("<svg/>"), "a head": []byte("\xff\xd8"), "half a head": jpg[:20]} {
		if _, err := inspect(bytes.NewReader(raw)); !mxerr.Is(err, mxerr.CodeUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cut := encoded(t, quarters(64, 64), typePNG)
	if p, err = inspect(bytes.NewReader(cut)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.shrink(bytes.NewReader(cut[:len(cut)/2]), Size{Width: 8, Height: 8}); !errors.Is(err, ErrNoThumbnail) {
		t.Errorf("half an image: %v", err)
	}
}

// TestMoving: what may move is returned as it is only where that is wanted.
func TestMoving(t *testing.T) {
	g, err := inspect(bytes.NewReader(encoded(t, quarters(20, 20), typeGIF)))
	if err != nil {
		t.Fatal(err)
	}
	if g.fits(Size{Width: 100, Height: 100}) || !g.fits(Size{Width: 100, Height: 100, Animated: true}) || g.fits(Size{Width: 10, Height: 10, Animated: true}) {
		t.Error("a GIF")
	}
	p, err := inspect(bytes.NewReader(encoded(t, quarters(20, 20), typePNG)))
	if err != nil || !p.fits(Size{Width: 100, Height: 100}) || p.fits(Size{Width: 10, Height: 10}) {
		t.Errorf("a PNG: %v", err)
	}
}

// FuzzImage: no bytes bring the reader of heads down, and what is promised of an image holds when it is decoded.
func FuzzImage(f *testing.F) {
	q := quarters(20, 10)
	for _, kind := range []string{typePNG, typeJPEG, typeGIF} {
		f.Add(encoded(f, q, kind))
	}
	f.Add(turned(encoded(f, q, typeJPEG), binary.LittleEndian, 6))
	f.Add(moving(f, 20, 10, whole(20, 10, 1), part(image.Rect(2, 2, 9, 9), 2, gif.DisposalPrevious), part(image.Rect(3, 3, 5, 5), 0, gif.DisposalBackground)))
	f.Add([]byte("RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := inspect(bytes.NewReader(raw))
		if err != nil || p.memory > 1<<20 {
			return
		}
		if _, err := p.survey(bytes.NewReader(raw), Size{Width: 8, Height: 8}); err == nil {
			g, err := p.shrinkAll(t.Context(), bytes.NewReader(raw), Size{Width: 8, Height: 8})
			if err == nil && (len(g.Image) > maxFrames || g.Config.Width > p.width || g.Config.Height > p.height || gif.EncodeAll(io.Discard, g) != nil) {
				t.Errorf("%+v became %+v", p, g.Config)
			}
		}
		m, err := p.shrink(bytes.NewReader(raw), Size{Width: 8, Height: 8})
		if err == nil && (m.Rect.Dx() > max(p.width, p.height) || m.Rect.Empty()) {
			t.Errorf("%+v became %v", p, m.Rect)
		}
	})
}

func BenchmarkShrink(b *testing.B) {
	raw := encoded(b, quarters(6000, 4000), typeJPEG)
	for _, size := range []Size{{Width: 32, Height: 32, Crop: true}, {Width: 800, Height: 600}} {
		b.Run(size.method(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				shrunk(b, raw, size)
			}
		})
	}
}
