package gateway

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The dashboard asks for no metric that is not there.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../deploy/grafana/gateway.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	n := newTwoCities(t)
	g, err := New(Config{City: "paris"}, n.ledger, nil, n.shelf, quiet())
	if err != nil {
		t.Fatal(err)
	}
	descriptions := make(chan *prometheus.Desc)
	go func() { g.meter.registry.Describe(descriptions); close(descriptions) }()
	there := map[string]bool{}
	for d := range descriptions {
		there[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	metric := regexp.MustCompile(`\b(bsn|process)_[a-z_]+`)
	suffix := regexp.MustCompile(`_bucket$`)
	if len(dashboard.Panels) == 0 {
		t.Error("no panels")
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			names := metric.FindAllString(target.Expr, -1)
			if len(names) == 0 {
				t.Errorf("%s: %q asks for nothing", p.Title, target.Expr)
			}
			for _, name := range names {
				if !there[suffix.ReplaceAllString(name, "")] {
					t.Errorf("%s: there is no metric %s", p.Title, name)
				}
			}
		}
	}
}
