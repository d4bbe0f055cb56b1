package media

import (
	"image"
	"image/draw"
	"math"
)

// average makes a part of an image smaller: each pixel is the mean of those it stands for. Neither side may grow. It takes memory for a row
// of the part and for two of the result.
func average(src image.Image, part image.Rectangle, w, h int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	line := image.NewRGBA(image.Rect(0, 0, part.Dx(), 1))
	columns := spread(part.Dx(), w)
	rows := spread(part.Dy(), h)
	narrow := make([]float32, 4*w)
	sum, next := make([]float32, 4*w), make([]float32, 4*w)
	at := 0
	for y, r := range rows {
		draw.Draw(line, line.Rect, src, image.Pt(part.Min.X, part.Min.Y+y), draw.Src)
		squeeze(narrow, line.Pix, columns)
		if r.to != at {
			store(out.Pix[at*out.Stride:], sum)
			sum, next = next, sum
			clear(next)
			at = r.to
		}
		for i, v := range narrow {
			sum[i] += v * r.here
		}
		if r.next > 0 {
			for i, v := range narrow {
				next[i] += v * r.next
			}
		}
	}
	store(out.Pix[at*out.Stride:], sum)
	return out
}

// share says which pixel of the smaller side one of the larger side belongs to, and how much of it to that and to the next.
type share struct {
	to         int
	here, next float32
}

// spread divides n pixels among m, which are as many or fewer.
func spread(n, m int) []share {
	out := make([]share, n)
	for i := range out {
		// In units of 1/n of a smaller pixel, so that everything is whole.
		from, to := int64(i)*int64(m), int64(i+1)*int64(m)
		at := from / int64(n)
		if end := (at + 1) * int64(n); to > end {
			out[i] = share{int(at), float32(end-from) / float32(n), float32(to-end) / float32(n)}
		} else {
			out[i] = share{int(at), float32(to-from) / float32(n), 0}
		}
	}
	return out
}

// squeeze adds up a row of pixels.
func squeeze(out []float32, pix []uint8, columns []share) {
	clear(out)
	for x, c := range columns {
		p := pix[4*x : 4*x+4 : 4*x+4]
		o := out[4*c.to : 4*c.to+4 : 4*c.to+4]
		o[0] += float32(p[0]) * c.here
		o[1] += float32(p[1]) * c.here
		o[2] += float32(p[2]) * c.here
		o[3] += float32(p[3]) * c.here
		if c.next > 0 {
			o = out[4*c.to+4 : 4*c.to+8 : 4*c.to+8]
			o[0] += float32(p[0]) * c.next
			o[1] += float32(p[1]) * c.next
			o[2] += float32(p[2]) * c.next
			o[3] += float32(p[3]) * c.next
		}
	}
}

func store(pix []uint8, sum []float32) {
	for i, v := range sum {
		pix[i] = uint8(min(math.Round(float64(v)), 255))
	}
}
