package media

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"io"
	"slices"
	"time"
)

// Bounds of what moves. What is beyond them gets a thumbnail that is still.
const (
	// maxFrames is the most frames.
	maxFrames = 1000
	// maxPainted bounds the pixels of all frames together, each as large as the whole image.
	maxPainted = 200 << 20
	// maxDithered bounds the pixels of all frames of the thumbnail together. Finding a colour for one takes far longer than reading one.
	maxDithered = 32 << 20
	// maxAnimationTime bounds how long one thumbnail is worked on.
	maxAnimationTime = 10 * time.Second
)

// errStill says that an image doesn't move, or takes too much for a thumbnail that does.
var errStill = errors.New("the image gets a thumbnail that is still")

// survey walks along the blocks of a GIF, without decoding any, and returns the memory that a thumbnail that moves takes to make, in bytes. It fails with
// errStill where there is to be none.
func (p picture) survey(in io.ReadSeeker, size Size) (memory int64, err error) {
	if p.contentType != typeGIF {
		return 0, errStill
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("read an image: %w", err)
	}
	frames, stored, err := countFrames(bufio.NewReaderSize(in, 64<<10))
	if err != nil {
		return 0, err
	}
	canvas := int64(p.width) * int64(p.height)
	if frames < 2 || frames > maxFrames || canvas*int64(frames) > maxPainted {
		return 0, errStill
	}
	_, _, w, h := size.shape(p.width, p.height)
	if int64(w)*int64(h)*int64(frames) > maxDithered {
		return 0, errStill
	}
	// All frames as they are stored, with their palettes; all that come of them; the canvas, what it was before, a frame that is put in order, and one on its way.
	memory = stored + int64(frames)*(int64(w)*int64(h)+2*256*24) + canvas*9 + int64(w)*int64(h)*8
	if memory > maxDecoding/3 {
		return 0, errStill
	}
	return memory, nil
}

// countFrames returns how many frames a GIF has and how many pixels they have together. It reads no further than one frame beyond what is allowed.
func countFrames(in *bufio.Reader) (frames int, pixels int64, err error) {
	var b [13]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return 0, 0, broken(err)
	}
	if err := skipColours(in, b[10]); err != nil {
		return 0, 0, broken(err)
	}
	for frames <= maxFrames && pixels <= maxPainted {
		kind, err := in.ReadByte()
		if err != nil {
			return 0, 0, broken(err)
		}
		switch kind {
		case 0x21: // an extension: its label, then blocks
			if _, err = in.Discard(1); err == nil {
				err = skipBlocks(in)
			}
		case 0x2c: // a frame
			if _, err = io.ReadFull(in, b[:9]); err != nil {
				break
			}
			frames++
			pixels += (int64(b[4]) | int64(b[5])<<8) * (int64(b[6]) | int64(b[7])<<8)
			if err = skipColours(in, b[8]); err != nil {
				break
			}
			if _, err = in.Discard(1); err == nil { // how long codes are at first
				err = skipBlocks(in)
			}
		case 0x3b: // the end
			return frames, pixels, nil
		default:
			return 0, 0, errStill
		}
		if err != nil {
			return 0, 0, broken(err)
		}
	}
	return frames, pixels, nil
}

// broken is the error of what ends too early: the first frame may be whole.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errStill
	}
	return err
}

// skipColours passes over the palette that flags announce.
func skipColours(in *bufio.Reader, flags byte) error {
	if flags&0x80 == 0 {
		return nil
	}
	_, err := in.Discard(3 << (1 + flags&7))
	return err
}

// skipBlocks passes over blocks up to the empty one.
func skipBlocks(in *bufio.Reader) error {
	for {
		n, err := in.ReadByte()
		if err != nil || n == 0 {
			return err
		}
		if _, err := in.Discard(int(n)); err != nil {
			return err
		}
	}
}

// animate writes a GIF smaller, as survey has allowed.
//
// Spec: cs getContentThumbnailAuthed
func (p picture) animate(ctx context.Context, out io.Writer, in io.Reader, size Size) error {
	small, err := p.shrinkAll(ctx, in, size)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(out, 32<<10)
	if err := gif.EncodeAll(buffered, small); err != nil {
		return fmt.Errorf("write a thumbnail: %w", err)
	}
	return nil // the encoder has flushed it
}

// shrinkAll makes a GIF smaller, frame by frame. Each frame of the result is as large as the whole, so that none depends on those
// before it.
func (p picture) shrinkAll(ctx context.Context, in io.Reader, size Size) (*gif.GIF, error) {
	ctx, cancel := context.WithTimeout(ctx, maxAnimationTime)
	defer cancel()
	g, err := gif.DecodeAll(timed{ctx, bufio.NewReaderSize(in, 64<<10)})
	if err != nil {
		return nil, errStill
	}
	whole := image.Rect(0, 0, p.width, p.height)
	cutW, cutH, w, h := size.shape(p.width, p.height)
	cut := image.Rect(0, 0, cutW, cutH).Add(image.Pt((p.width-cutW)/2, (p.height-cutH)/2))
	out := &gif.GIF{LoopCount: g.LoopCount, Delay: g.Delay, Config: image.Config{Width: w, Height: h}}
	canvas := image.NewRGBA(whole)
	shared, _ := g.Config.ColorModel.(color.Palette)
	var before *image.RGBA
	for i, frame := range g.Image {
		if ctx.Err() != nil {
			return nil, errStill
		}
		if g.Disposal[i] == gif.DisposalPrevious {
			if before == nil {
				before = image.NewRGBA(whole)
			}
			copy(before.Pix, canvas.Pix)
		}
		draw.Draw(canvas, frame.Rect, frame, frame.Rect.Min, draw.Over)
		colours := shared
		if frame.Rect == whole {
			colours = frame.Palette
		}
		out.Image = append(out.Image, paletted(average(canvas, cut, w, h), colours))
		// What is shown next shows nothing of this one where it is transparent.
		out.Disposal = append(out.Disposal, gif.DisposalBackground)
		switch g.Disposal[i] {
		case gif.DisposalBackground:
			draw.Draw(canvas, frame.Rect, image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			draw.Draw(canvas, frame.Rect, before, frame.Rect.Min, draw.Src)
		}
		g.Image[i] = nil
	}
	return out, nil
}

// manyColours is from how many on the colours of a frame are taken to be enough for the mixtures of them.
const manyColours = 64

// paletted gives an image the colours that it has, or where these are too many those of a frame, or where those are few a palette for everything. What is more
// than half transparent becomes so altogether, since a GIF knows nothing in between.
func paletted(m *image.RGBA, own color.Palette) *image.Paletted {
	faint := make([]bool, len(m.Pix)/4)
	through := false
	var exact color.Palette
	seen := make(map[color.RGBA]struct{})
	for i := range faint {
		p := m.Pix[4*i : 4*i+4 : 4*i+4]
		if p[3] < 128 {
			faint[i], through = true, true
			continue
		}
		if a := uint32(p[3]); a < 255 {
			p[0], p[1], p[2], p[3] = uint8(uint32(p[0])*255/a), uint8(uint32(p[1])*255/a), uint8(uint32(p[2])*255/a), 255
		}
		c := color.RGBA{p[0], p[1], p[2], 255}
		if _, known := seen[c]; !known && len(seen) < 256 {
			seen[c] = struct{}{}
			exact = append(exact, c)
		}
	}
	colours := exact
	switch {
	case len(exact) == 0:
		colours = color.Palette{color.RGBA{A: 255}}
	case len(exact) < 256: // all of them
	case len(own) >= manyColours:
		colours = slices.DeleteFunc(slices.Clone(own), func(c color.Color) bool { _, _, _, a := c.RGBA(); return a == 0 })
	default:
		colours = slices.Clone(palette.Plan9)
	}
	if len(colours) == 0 {
		colours = slices.Clone(palette.Plan9)
	}
	if through {
		colours = colours[:min(len(colours), 255)]
		blank := color.RGBAModel.Convert(colours[0]).(color.RGBA)
		for i, gone := range faint { // so that nothing is left over for the neighbours
			if gone {
				copy(m.Pix[4*i:], []uint8{blank.R, blank.G, blank.B, blank.A})
			}
		}
	}
	out := image.NewPaletted(m.Rect, colours)
	draw.FloydSteinberg.Draw(out, m.Rect, m, image.Point{})
	if through {
		out.Palette = append(colours, color.RGBA{})
		for i, gone := range faint {
			if gone {
				out.Pix[i] = uint8(len(colours))
			}
		}
	}
	return out
}

// timed ends a reader together with a context.
type timed struct {
	ctx  context.Context
	from io.Reader
}

func (t timed) Read(p []byte) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	return t.from.Read(p)
}
