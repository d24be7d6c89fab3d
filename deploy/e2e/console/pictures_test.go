//go:build browser

package console

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
)

// The pictures of docs/console: as large as a window, and no longer than a person
// scrolls.
const (
	pictureFolder = "../../../docs/console"
	pictureMost   = 150 << 10 // bytes
	tallest       = 1500      // pixels
	tallestNarrow = 1900
)

// TestPictures takes each page in light, dark and narrow, with -update into
// docs/console. A picture that is too large for the repository is an error.
func TestPictures(t *testing.T) {
	s := startStack(t)
	sc := fill(s.writer(), time.Now().Truncate(time.Minute))
	c := s.ready()
	folder := pictureFolder
	if !*pictures {
		folder = t.TempDir()
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	for _, v := range []view{light, dark, narrow} {
		b := open(t, c.url)
		b.look(v)
		for _, p := range sc.pages() {
			b.shows(p.path)
			if eval[bool](b, `document.querySelector("#connection") !== null`) {
				b.live()
			}
			file := filepath.Join(folder, p.name+"-"+v.name+".png")
			data := b.picture(v)
			if len(data) > pictureMost {
				t.Errorf("%s has %d KB", file, len(data)>>10)
			}
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %d KB", filepath.Base(file), len(data)>>10)
		}
	}
}

// picture is the page as a PNG of at most 256 colours.
func (b *tab) picture(v view) []byte {
	b.t.Helper()
	most := float64(tallest)
	if v.width < 600 {
		most = tallestNarrow
	}
	height := min(eval[float64](b, `document.documentElement.scrollHeight`), most)
	raw := send(b, page.CaptureScreenshot, page.CaptureScreenshotParams{
		CaptureBeyondViewport: new(true), Clip: &page.Viewport{Width: float64(v.width), Height: height, Scale: 1},
	}).Data
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		b.t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, reduced(img)); err != nil {
		b.t.Fatal(err)
	}
	return out.Bytes()
}

// reduced is the image with its 256 most frequent colours; another one becomes the
// nearest of those. A page has a few, and the edges of its letters the rest.
func reduced(img image.Image) *image.Paletted {
	bounds := img.Bounds()
	counts := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA) }
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int {
		return cmp.Or(counts[b]-counts[a], cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	index := map[color.RGBA]uint8{}
	for _, c := range all {
		index[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			out.SetColorIndex(x, y, index[at(x, y)])
		}
	}
	return out
}
