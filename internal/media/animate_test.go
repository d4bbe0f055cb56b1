package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"io"
	"slices"
	"testing"

	"myelin/internal/sqldb/sqldbtest"
)

var colours = color.Palette{color.RGBA{}, color.RGBA{255, 0, 0, 255}, color.RGBA{0, 255, 0, 255}, color.RGBA{0, 0, 255, 255}}

// scene is one frame: a rectangle of one of the colours.
type scene struct {
	where    image.Rectangle
	colour   uint8
	disposal byte
	delay    int
}

func part(where image.Rectangle, colour uint8, disposal byte) scene {
	return scene{where: where, colour: colour, disposal: disposal, delay: 7}
}

func whole(w, h int, colour uint8) scene {
	return part(image.Rect(0, 0, w, h), colour, gif.DisposalNone)
}

// moving is a GIF of some frames that is shown three times.
func moving(t testing.TB, w, h int, scenes ...scene) []byte {
	t.Helper()
	g := gif.GIF{LoopCount: 2, Config: image.Config{Width: w, Height: h, ColorModel: colours}}
	for _, s := range scenes {
		m := image.NewPaletted(s.where, colours)
		for i := range m.Pix {
			m.Pix[i] = s.colour
		}
		g.Image, g.Delay, g.Disposal = append(g.Image, m), append(g.Delay, s.delay), append(g.Disposal, s.disposal)
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, &g); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// shown is what a viewer shows at a point during each frame.
func shown(g *gif.GIF, at image.Point) (out []color.RGBA) {
	canvas := image.NewRGBA(image.Rect(0, 0, g.Config.Width, g.Config.Height))
	for i, m := range g.Image {
		draw.Draw(canvas, m.Rect, m, m.Rect.Min, draw.Over)
		out = append(out, canvas.RGBAAt(at.X, at.Y))
		if g.Disposal[i] == gif.DisposalBackground {
			draw.Draw(canvas, m.Rect, image.Transparent, image.Point{}, draw.Src)
		}
	}
	return out
}

// TestAnimation: a thumbnail that moves shows what the image shows, for as long and as often.
func TestAnimation(t *testing.T) {
	left, right := image.Rect(0, 0, 50, 80), image.Rect(50, 0, 100, 80)
	none, red, green, blue := colours[0], colours[1], colours[2], colours[3]
	for name, c := range map[string]struct {
		scenes      []scene
		left, right []color.Color
	}{
		"frames stay": {[]scene{whole(100, 80, 1), part(right, 2, 0), part(left, 3, gif.DisposalNone)},
			[]color.Color{red, red, blue}, []color.Color{red, green, green}},
		"a frame goes": {[]scene{whole(100, 80, 1), part(left, 2, gif.DisposalBackground), part(right, 3, gif.DisposalNone)},
			[]color.Color{red, green, none}, []color.Color{red, red, blue}},
		"what was before comes back": {[]scene{whole(100, 80, 1), part(left, 2, gif.DisposalPrevious), part(right, 3, gif.DisposalNone)},
			[]color.Color{red, green, red}, []color.Color{red, red, blue}},
		"transparent pixels": {[]scene{whole(100, 80, 0), part(left, 2, gif.DisposalNone), whole(100, 80, 0)},
			[]color.Color{none, green, green}, []color.Color{none, none, none}},
		"a small first frame": {[]scene{part(left, 1, gif.DisposalNone), part(right, 2, gif.DisposalBackground), part(left, 3, gif.DisposalNone)},
			[]color.Color{red, red, blue}, []color.Color{none, green, none}},
	} {
		c.scenes[1].delay = 123
		raw := moving(t, 100, 80, c.scenes...)
		for _, size := range []Size{{20, 20, false, true}, {20, 20, true, true}} {
			p, err := inspect(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.survey(bytes.NewReader(raw), size); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var b bytes.Buffer
			if err := p.animate(t.Context(), &b, bytes.NewReader(raw), size); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			g, err := gif.DecodeAll(&b)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if want := (map[bool]image.Point{false: {25, 20}, true: {20, 20}})[size.Crop]; g.Config.Width != want.X || g.Config.Height != want.Y {
				t.Errorf("%s: it is %dx%d", name, g.Config.Width, g.Config.Height)
			}
			if g.LoopCount != 2 || !slices.Equal(g.Delay, []int{7, 123, 7}) {
				t.Errorf("%s: loops %d, delays %v", name, g.LoopCount, g.Delay)
			}
			for i, c2 := range shown(g, image.Pt(3, 5)) {
				if c2 != c.left[i] {
					t.Errorf("%s: frame %d on the left: %v", name, i, c2)
				}
			}
			for i, c2 := range shown(g, image.Pt(g.Config.Width-3, 5)) {
				if c2 != c.right[i] {
					t.Errorf("%s: frame %d on the right: %v", name, i, c2)
				}
			}
		}
	}
}

// TestManyColours: with more colours than a GIF has, those of a thumbnail are about right.
func TestManyColours(t *testing.T) {
	m := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for y := range 64 {
		for x := range 64 {
			m.SetRGBA(x, y, color.RGBA{uint8(4 * x), uint8(4 * y), 128, 255})
		}
	}
	m.SetRGBA(1, 1, color.RGBA{})
	m.SetRGBA(60, 60, color.RGBA{200, 200, 100, 200})
	out := paletted(m, nil)
	if _, _, _, a := out.At(1, 1).RGBA(); a != 0 || len(out.Palette) != 256 {
		t.Errorf("transparent: %d, of %d colours", a, len(out.Palette))
	}
	mean := average(out, image.Rect(32, 32, 48, 48), 1, 1).RGBAAt(0, 0)
	for i, d := range []int{int(mean.R) - 158, int(mean.G) - 158, int(mean.B) - 128} {
		if d < -12 || d > 12 {
			t.Errorf("channel %d is off by %d", i, d)
		}
	}
}

// TestGIFBombs: what takes too much is found out before it is decoded, and gets no thumbnail that moves.
func TestGIFBombs(t *testing.T) {
	survey := func(raw []byte, size Size) error {
		p, err := inspect(bytes.NewReader(raw))
		if err == nil {
			_, err = p.survey(bytes.NewReader(raw), size)
		}
		return err
	}
	small := Size{Width: 32, Height: 32, Animated: true}
	vast := moving(t, 20, 20, whole(20, 20, 1), whole(20, 20, 2))
	binary.LittleEndian.PutUint16(vast[6:], 65535)
	binary.LittleEndian.PutUint16(vast[8:], 65535)
	if p, err := inspect(bytes.NewReader(vast)); err != nil || p.memory <= maxDecoding {
		t.Errorf("a vast canvas: %+v %v", p, err)
	}
	if err := survey(vast, small); !errors.Is(err, errStill) {
		t.Errorf("a vast canvas: %v", err)
	}
	one := moving(t, 200, 200, whole(200, 200, 1))
	frame := bytes.LastIndex(one, []byte{0x21, 0xf9, 4})
	head, body := one[:frame], one[frame:len(one)-1]
	times := func(n int) []byte { return append(append(slices.Clone(head), bytes.Repeat(body, n)...), 0x3b) }
	if err := survey(times(100_000), small); !errors.Is(err, errStill) {
		t.Errorf("100,000 frames: %v", err)
	}
	if err := survey(times(100), small); err != nil {
		t.Errorf("100 frames: %v", err)
	}
	if err := survey(times(1), small); !errors.Is(err, errStill) {
		t.Errorf("one frame: %v", err)
	}
	if err := survey(times(900), Size{Width: 199, Height: 199, Animated: true}); !errors.Is(err, errStill) {
		t.Errorf("many pixels of the thumbnail: %v", err)
	}
	large := slices.Clone(times(200))
	binary.LittleEndian.PutUint16(large[6:], 1200)
	binary.LittleEndian.PutUint16(large[8:], 1200)
	if err := survey(large, small); !errors.Is(err, errStill) {
		t.Errorf("many pixels of the image: %v", err)
	}
	for n := range one {
		if err := survey(times(2)[:n], small); err == nil {
			t.Errorf("%d bytes are taken for a whole", n)
		}
	}
	if err := survey(encoded(t, quarters(20, 20), typePNG), small); !errors.Is(err, errStill) {
		t.Errorf("a PNG: %v", err)
	}
}

// TestAnimatedThumbnail: who wants a thumbnail that moves gets one, others a still one; and where it would take too much it is still for all.
//
// Spec: cs getContentThumbnailAuthed
func TestAnimatedThumbnail(t *testing.T) {
	n := start(t, sqldbtest.SQLite(t), Limits{Thumbnails: 1 << 20})
	clip := moving(t, 100, 80, whole(100, 80, 1), whole(100, 80, 2))
	still := moving(t, 100, 80, whole(100, 80, 1))
	frame := bytes.LastIndex(still, []byte{0x21, 0xf9, 4})
	bomb := append(append(slices.Clone(still[:frame]), bytes.Repeat(still[frame:len(still)-1], 2*maxFrames)...), 0x3b)
	for name, c := range map[string]struct {
		raw      []byte
		animated bool
		kind     string
		frames   int
	}{
		"moving": {clip, true, typeGIF, 2}, "unasked": {clip, false, typePNG, 0}, "one frame": {still, true, typePNG, 0},
		"too many": {bomb, true, typePNG, 0}, "cut off": {clip[:len(clip)-1], true, typePNG, 0},
	} {
		u, err := n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(c.raw)})
		n.ok(err)
		for range 2 { // made, then found
			f, err := n.Thumbnail(n.ctx, Want{URI: u}, Size{Width: 32, Height: 32, Animated: c.animated})
			n.ok(err)
			raw, err := io.ReadAll(f.Body)
			n.ok(err)
			f.Body.Close()
			if f.ContentType != c.kind || int64(len(raw)) != f.Size {
				t.Errorf("%s: %s of %d bytes, %d came", name, f.ContentType, f.Size, len(raw))
			}
			if c.frames > 0 {
				if g, err := gif.DecodeAll(bytes.NewReader(raw)); err != nil || len(g.Image) != c.frames || g.Config.Width != 40 {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}
