package media

import (
	"bytes"
	"encoding/binary"
	"image"
)

// jpegHead is what stands before the first scan of a JPEG.
type jpegHead struct {
	width, height int
	turn          orientation
	progressive   bool
	// parts is how many samples there are of all components together for one pixel, in quarters.
	parts int64
}

// memory is what decoding takes: the samples, and where they come in several scans all coefficients in four bytes each.
func (j jpegHead) memory() int64 {
	perPart := int64(1)
	if j.progressive {
		perPart = 5
	}
	// Sides are rounded up to whole blocks.
	return int64(j.width+32) * int64(j.height+32) * j.parts * perPart / 4
}

// readJPEGHead walks along the markers up to the first scan. It is false where the frame's header isn't found.
func readJPEGHead(b []byte) (j jpegHead, ok bool) {
	j.turn = 1
	for b = b[2:]; len(b) >= 4; {
		if b[0] != 0xff {
			return j, false
		}
		marker := b[1]
		if marker == 0xff { // a filler
			b = b[1:]
			continue
		}
		if marker == 0xda || marker == 0xd9 {
			break
		}
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < 2 {
			return j, false
		}
		body := b[4:min(2+size, len(b))]
		switch {
		case marker == 0xe1 && bytes.HasPrefix(body, []byte("Exif\x00\x00")):
			j.turn = exifOrientation(body[6:])
		case marker >= 0xc0 && marker <= 0xc2:
			if ok = j.frame(body); !ok {
				return j, false
			}
			j.progressive = marker == 0xc2
		}
		if 2+size > len(b) {
			break
		}
		b = b[2+size:]
	}
	return j, ok
}

// frame reads a frame's header.
func (j *jpegHead) frame(b []byte) bool {
	if len(b) < 6 {
		return false
	}
	j.height, j.width = int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:]))
	n := int(b[5])
	if n < 1 || n > 4 || len(b) < 6+3*n {
		return false
	}
	most, all := int64(0), int64(0)
	for i := range n {
		hv := b[7+3*i]
		area := int64(hv>>4) * int64(hv&15)
		most, all = max(most, area), all+area
	}
	if most == 0 {
		return false
	}
	j.parts = (4*all + most - 1) / most
	if n == 4 {
		j.parts += 16 // the decoder makes another image of the four
	}
	return true
}

// orientation is the value of the EXIF tag: how the stored image lies. 1 is upright, from 5 on it lies on a side.
type orientation uint8

func (o orientation) sideways() bool { return o >= 5 && o <= 8 }

// exifOrientation reads the one tag of EXIF data that matters here; 1 where there is none.
func exifOrientation(b []byte) orientation {
	if len(b) < 8 {
		return 1
	}
	var order binary.ByteOrder
	switch string(b[:4]) {
	case "II*\x00":
		order = binary.LittleEndian
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 1
	}
	at := uint64(order.Uint32(b[4:]))
	if at+2 > uint64(len(b)) {
		return 1
	}
	entries := uint64(order.Uint16(b[at:]))
	for i := range entries {
		from := at + 2 + 12*i
		if from+12 > uint64(len(b)) {
			return 1
		}
		entry := b[from : from+12]
		const tagOrientation, typeShort = 0x0112, 3
		if order.Uint16(entry) != tagOrientation {
			continue
		}
		if v := order.Uint16(entry[8:]); order.Uint16(entry[2:]) == typeShort && v >= 1 && v <= 8 {
			return orientation(v)
		}
		return 1
	}
	return 1
}

// apply turns and mirrors an image so that it is seen as it was taken.
func (o orientation) apply(in *image.RGBA) *image.RGBA {
	if o <= 1 || o > 8 {
		return in
	}
	w, h := in.Rect.Dx(), in.Rect.Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if o.sideways() {
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			to := image.Pt(x, y)
			switch o {
			case 2:
				to = image.Pt(w-1-x, y)
			case 3:
				to = image.Pt(w-1-x, h-1-y)
			case 4:
				to = image.Pt(x, h-1-y)
			case 5:
				to = image.Pt(y, x)
			case 6:
				to = image.Pt(h-1-y, x)
			case 7:
				to = image.Pt(h-1-y, w-1-x)
			case 8:
				to = image.Pt(y, w-1-x)
			}
			copy(out.Pix[out.PixOffset(to.X, to.Y):][:4], in.Pix[in.PixOffset(x, y):][:4])
		}
	}
	return out
}
