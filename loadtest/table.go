package loadtest

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// byStore shows suites by store.
func byStore(results []Result) string {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"suite", "store", "wiring", "result", "sent", "allowed", "limited", "expected"})
	for _, r := range results {
		var sum row
		for _, x := range r.Rows {
			sum.Sent, sum.Allowed, sum.Limited = sum.Sent+x.Sent, sum.Allowed+x.Allowed, sum.Limited+x.Limited
			sum.Low, sum.High = sum.Low+x.Low, sum.High+x.High
		}
		t.AppendRow(table.Row{r.Suite, r.Store, r.Wiring, r.Result, sum.Sent, sum.Allowed, sum.Limited, between(sum.Low, sum.High)})
	}
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 5, Align: text.AlignRight}, {Number: 6, Align: text.AlignRight}, {Number: 7, Align: text.AlignRight}, {Number: 8, Align: text.AlignRight}})
	return t.Render()
}

func between(low, high int) string {
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d to %d", low, high)
}

// byDefect shows suites of a wiring by defect: which had to be red, and which were.
func byDefect(results []Result, wiring string) string {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	head := table.Row{"suite"}
	for _, d := range defects {
		head = append(head, d.name)
	}
	t.AppendHeader(head)
	for _, s := range suites {
		line, any := table.Row{s.name}, false
		for _, d := range defects {
			cell := ""
			for _, r := range results {
				if r.Suite == s.name && r.Wiring == wiring && r.defect == d.name {
					any, cell = true, r.Result
					if d.concerns(s.name) {
						cell = strings.ToUpper(cell)
					}
				}
			}
			line = append(line, cell)
		}
		if any {
			t.AppendRow(line)
		}
	}
	return t.RenderMarkdown()
}

// byAlgorithm shows how far counts are from those of a log of all hits.
func byAlgorithm(results []Result) string {
	t := table.NewWriter()
	t.AppendHeader(table.Row{"algorithm", "tenant", "wiring", "store", "sent", "allowed", "expected", "error", "bounds"})
	for _, r := range results {
		for _, x := range r.Rows {
			t.AppendRow(table.Row{x.Algorithm, x.Name, r.Wiring, r.Store, x.Sent, x.Allowed, x.Ideal, fmt.Sprintf("%+.2f %%", 100*float64(x.Allowed-x.Ideal)/float64(max(x.Ideal, 1))), between(x.Low, x.High)})
		}
	}
	t.SortBy([]table.SortBy{{Name: "algorithm"}, {Name: "tenant"}, {Name: "wiring"}, {Name: "store"}})
	return t.RenderMarkdown()
}
