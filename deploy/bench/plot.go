package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// plot draws the ratio of each pair, the median of each row and its goal.
func (r report) plot(file string) error {
	p := plot.New()
	p.Title.Text = "ours against a bare loop, " + r.At.Format("2006-01-02") + ", commit " + r.Machine.Commit
	p.Y.Label.Text = "ratio, one point a pair"
	p.Y.Min = 0
	p.Add(plotter.NewGrid())
	var pairs, medians, goals plotter.XYs
	var names []string
	for i, m := range r.Rows {
		x := float64(i)
		names = append(names, m.ID+" "+m.Title)
		for _, pair := range m.Pairs {
			pairs = append(pairs, plotter.XY{X: x, Y: pair.Ratio})
		}
		medians = append(medians, plotter.XY{X: x, Y: m.Ratio.Median})
		for _, g := range m.goals {
			if g.Counter == "" {
				goals = append(goals, plotter.XY{X: x, Y: g.Value})
			}
		}
	}
	for _, series := range []struct {
		name   string
		points plotter.XYs
		style  draw.GlyphStyle
	}{
		{"pair", pairs, draw.GlyphStyle{Color: color.Gray{Y: 96}, Radius: 3, Shape: draw.RingGlyph{}}},
		{"median", medians, draw.GlyphStyle{Color: color.RGBA{B: 200, A: 255}, Radius: 5, Shape: draw.PlusGlyph{}}},
		{"goal", goals, draw.GlyphStyle{Color: color.RGBA{R: 200, A: 255}, Radius: 5, Shape: draw.TriangleGlyph{}}},
	} {
		if len(series.points) == 0 {
			continue
		}
		scatter, err := plotter.NewScatter(series.points)
		if err != nil {
			return err
		}
		scatter.GlyphStyle = series.style
		p.Add(scatter)
		p.Legend.Add(series.name, scatter)
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	p.Y.Max = max(p.Y.Max, 1.1)
	return p.Save(vg.Length(8+6*len(names))*vg.Centimeter, 12*vg.Centimeter, file)
}
