package plot

import (
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"
)

// draw returns the picture and its elements' names, if it is well-formed.
func draw(t *testing.T, c Chart) (string, map[string]int) {
	t.Helper()
	var b strings.Builder
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	elements := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return b.String(), elements
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, b.String())
		}
		if s, ok := tok.(xml.StartElement); ok {
			elements[s.Name.Local]++
		}
	}
}

func TestPointsStandWhereTheyShould(t *testing.T) {
	t.Parallel()
	svg, _ := draw(t, Chart{Title: "goodput <of> x & y", X: "sessions", Y: "messages/s", LogX: true, Lines: []Line{
		{Name: "measured", Points: []Point{{1, 0}, {2, 50}, {4, 100}}},
		{Name: "possible", Dashed: true, Points: []Point{{1, 100}, {4, 100}}},
	}})
	for _, want := range []string{
		`d="M70.0 370.0L340.0 205.0L610.0 40.0"`,
		`d="M70.0 40.0L610.0 40.0"`, `stroke-dasharray`,
		"goodput &lt;of&gt; x &amp; y", ">measured<", ">possible<", ">sessions<", ">messages/s<",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s in\n%s", want, svg)
		}
	}
}

func TestLogarithmicAxisBeginsAtAPowerOfTwo(t *testing.T) {
	t.Parallel()
	svg, _ := draw(t, Chart{LogX: true, Lines: []Line{{Name: "a", Points: []Point{{0.3, 1}, {4, 2}}}}})
	for _, want := range []string{">0.25<", ">0.5<", ">4<", `d="M105.`} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s in\n%s", want, svg)
		}
	}
}

func TestGapsAndEmptyChartsAreDrawn(t *testing.T) {
	t.Parallel()
	svg, _ := draw(t, Chart{Lines: []Line{{Name: "a", Points: []Point{{0, 1}, {1, math.NaN()}, {2, 1}, {3, math.Inf(1)}}}}})
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || strings.Count(svg, "M70.0 40.0M") != 1 {
		t.Errorf("a gap is drawn as\n%s", svg)
	}
	for _, c := range []Chart{{}, {Lines: []Line{{Name: "none"}}}, {Lines: []Line{{Name: "one", Points: []Point{{5, 5}}}}}} {
		if svg, elements := draw(t, c); elements["svg"] != 1 || strings.Contains(svg, "NaN") {
			t.Errorf("%+v is drawn as\n%s", c, svg)
		}
	}
}

func TestNamesDoNotStandOnEachOther(t *testing.T) {
	t.Parallel()
	var l labels
	a, b, c := l.free(100), l.free(101), l.free(99)
	if math.Abs(a-b) < labelHeight || math.Abs(b-c) < labelHeight || math.Abs(a-c) < labelHeight {
		t.Errorf("names at %v, %v, %v", a, b, c)
	}
}
