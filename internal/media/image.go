package media

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

const (
	// maxDecoding bounds the memory of all images that are decoded at once, in bytes.
	maxDecoding = 360 << 20
	// largeImage is an image whose memory is given back before another one may take it, in bytes.
	largeImage = 64 << 20
	// maxSide bounds either side of an image in pixels.
	maxSide = 1 << 16
	// maxScans bounds how often a JPEG may paint over itself. Each time costs as much as decoding the whole, and takes a few bytes to ask for.
	maxScans = 100
	// headSize is how much of an image is looked at to find out what it is, in bytes.
	headSize = 512 << 10
	// jpegQuality is that of thumbnails.
	jpegQuality = 80
)

// The types of images, as they are found and made.
const (
	typeJPEG = "image/jpeg"
	typePNG  = "image/png"
	typeGIF  = "image/gif"
	typeWebP = "image/webp"
)

var extensions = map[string]string{typeJPEG: ".jpg", typePNG: ".png", typeGIF: ".gif", typeWebP: ".webp"}

// picture is what the head of an image says.
type picture struct {
	// contentType is what the bytes are, whatever the uploader said.
	contentType string
	// width and height are as the image is stored, before it is turned.
	width, height int
	// turn is how the image is to be turned to be seen upright.
	turn orientation
	// moves: there may be more than one frame.
	moves bool
	// memory is what decoding may take, in bytes.
	memory int64
}

// inspect reads the head of an image. It fails with ErrNoThumbnail where it is none.
func inspect(in io.ReadSeeker) (picture, error) {
	head := make([]byte, headSize)
	n, err := io.ReadFull(in, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return picture{}, fmt.Errorf("read an image: %w", err)
	}
	head = head[:n]
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return picture{}, fmt.Errorf("read an image: %w", err)
	}
	p, ok := inspectHead(head)
	if !ok || p.width < 1 || p.height < 1 {
		return picture{}, ErrNoThumbnail
	}
	if p.width > maxSide || p.height > maxSide {
		return picture{}, ErrTooManyPixels
	}
	return p, nil
}

func inspectHead(head []byte) (p picture, ok bool) {
	var config image.Config
	var err error
	perPixel := int64(0)
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xd8")):
		j, ok := readJPEGHead(head)
		if !ok {
			return p, false
		}
		return picture{contentType: typeJPEG, width: j.width, height: j.height, turn: j.turn, memory: j.memory()}, true
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		p.contentType = typePNG
		p.moves = bytes.Contains(head, []byte("acTL"))
		config, err = png.DecodeConfig(bytes.NewReader(head))
		perPixel = 8 // interlaced images are put together out of parts
		switch config.ColorModel {
		case color.NRGBA64Model, color.RGBA64Model, color.Gray16Model:
			perPixel = 16
		}
	case bytes.HasPrefix(head, []byte("GIF8")):
		p.contentType, p.moves = typeGIF, true
		config, err = gif.DecodeConfig(bytes.NewReader(head))
		perPixel = 2
	case len(head) > 16 && bytes.HasPrefix(head, []byte("RIFF")) && bytes.Equal(head[8:12], []byte("WEBP")):
		p.contentType = typeWebP
		p.moves = bytes.Equal(head[12:16], []byte("VP8X")) && len(head) > 20 && head[20]&2 != 0
		config, err = webp.DecodeConfig(bytes.NewReader(head))
		perPixel = 12
	default:
		return p, false
	}
	p.width, p.height = config.Width, config.Height
	if err != nil || p.width < 1 || p.height < 1 {
		return p, false
	}
	p.memory = int64(p.width) * int64(p.height) * perPixel
	return p, true
}

// quota is what decoding an image takes of maxDecoding: three times its memory, since what is done with lies there until the
// next collection, which comes when there is as much of it as of what is in use.
func quota(memory int64) int64 { return min(3*memory, maxDecoding) }

// upright returns the sides of the image as it is seen.
func (p picture) upright() (width, height int) {
	if p.turn.sideways() {
		return p.height, p.width
	}
	return p.width, p.height
}

// fits reports whether the original is to be returned instead of a thumbnail.
func (p picture) fits(size Size) bool {
	if p.moves && !size.Animated {
		return false
	}
	w, h := p.upright()
	if size.Crop {
		return w <= size.Width && h <= size.Height
	}
	return w <= size.Width || h <= size.Height
}

// shrink decodes an image and makes it as small as wanted, upright.
func (p picture) shrink(in io.Reader, size Size) (*image.RGBA, error) {
	in = bufio.NewReaderSize(in, 64<<10)
	var full image.Image
	var err error
	switch p.contentType {
	case typeJPEG:
		full, err = jpeg.Decode(&scanCounter{from: in})
	case typePNG:
		full, err = png.Decode(in)
	case typeGIF:
		full, err = gif.Decode(in)
	default:
		full, err = webp.Decode(in)
	}
	if err != nil || full.Bounds().Empty() {
		return nil, ErrNoThumbnail
	}
	bounds := full.Bounds()
	w, h := bounds.Dx(), bounds.Dy()
	if p.turn.sideways() {
		w, h = h, w
	}
	cutW, cutH, outW, outH := size.shape(w, h)
	if p.turn.sideways() {
		cutW, cutH, outW, outH = cutH, cutW, outH, outW
	}
	cut := image.Rect(0, 0, cutW, cutH).Add(bounds.Min).Add(image.Pt((bounds.Dx()-cutW)/2, (bounds.Dy()-cutH)/2))
	return p.turn.apply(average(full, cut, outW, outH)), nil
}

// shape returns which part of an image, cut around its middle, becomes a thumbnail, and how large that is: as large as wanted or
// larger, and never larger than the image.
//
// Spec: cs Thumbnails
func (s Size) shape(w, h int) (cutW, cutH, outW, outH int) {
	if s.Crop {
		cutW, cutH = w, scaled(w, s.Height, s.Width)
		if cutH > h {
			cutW, cutH = scaled(h, s.Width, s.Height), h
		}
		cutW, cutH = min(cutW, w), min(cutH, h)
		return cutW, cutH, min(s.Width, cutW), min(s.Height, cutH)
	}
	if w <= s.Width || h <= s.Height {
		return w, h, w, h
	}
	// The side that has to shrink less decides.
	if int64(s.Width)*int64(h) >= int64(s.Height)*int64(w) {
		return w, h, s.Width, min(scaled(s.Width, h, w), h)
	}
	return w, h, min(scaled(s.Height, w, h), w), s.Height
}

// scaled is a*b/c, rounded, and at least 1.
func scaled(a, b, c int) int {
	return int(max((int64(a)*int64(b)+int64(c)/2)/int64(c), 1))
}

// thumbnailType is the type that a thumbnail of the image gets: what looks like a photograph is a JPEG.
func (p picture) thumbnailType(small *image.RGBA) string {
	if p.contentType == typeJPEG || p.contentType == typeWebP && small.Opaque() {
		return typeJPEG
	}
	return typePNG
}

func encode(w io.Writer, m image.Image, contentType string) error {
	out := bufio.NewWriterSize(w, 32<<10)
	var err error
	if contentType == typeJPEG {
		err = jpeg.Encode(out, m, &jpeg.Options{Quality: jpegQuality})
	} else {
		err = png.Encode(out, m)
	}
	if err == nil {
		err = out.Flush()
	}
	return err
}

var errScans = errors.New("the image has too many scans")

// scanCounter ends a JPEG that has too many scans.
type scanCounter struct {
	from  io.Reader
	scans int
	last  byte
}

func (s *scanCounter) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		if s.last == 0xff {
			if s.last = rest[0]; s.last == 0xda {
				s.scans++
			}
			rest = rest[1:]
			continue
		}
		at := bytes.IndexByte(rest, 0xff)
		if at < 0 {
			s.last = 0
			break
		}
		s.last, rest = 0xff, rest[at+1:]
	}
	if s.scans > maxScans {
		return 0, errScans
	}
	return n, err
}
