package publish

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
)

func version(at map[string]bsn.PlacementStatus) bsn.Version {
	v := bsn.Version{Number: 1, Cities: []string{"paris", "rome"}, Placements: map[string]bsn.Placement{}}
	for city, status := range at {
		v.Placements[city] = bsn.Placement{Status: status, Reason: "because of " + city}
	}
	return v
}

func TestBehind(t *testing.T) {
	for name, c := range map[string]struct {
		at     map[string]bsn.PlacementStatus
		status bsn.PlacementStatus
		want   string
	}{
		"nobody answered":       {nil, bsn.PlacementAccepted, "paris, rome"},
		"one accepted":          {map[string]bsn.PlacementStatus{"rome": "accepted"}, bsn.PlacementAccepted, "paris"},
		"both accepted":         {map[string]bsn.PlacementStatus{"rome": "accepted", "paris": "accepted"}, bsn.PlacementAccepted, ""},
		"one is further":        {map[string]bsn.PlacementStatus{"rome": "serving", "paris": "accepted"}, bsn.PlacementAccepted, ""},
		"accepting is no serve": {map[string]bsn.PlacementStatus{"rome": "serving", "paris": "accepted"}, bsn.PlacementServing, "paris"},
		"refused":               {map[string]bsn.PlacementStatus{"rome": "serving", "paris": "refused"}, bsn.PlacementServing, "paris"},
		"a city not chosen":     {map[string]bsn.PlacementStatus{"rome": "serving", "oslo": "serving"}, bsn.PlacementServing, "paris"},
	} {
		v := version(c.at)
		if got := behind(v, c.status); got != c.want || placed(v, c.status) != (c.want == "") {
			t.Errorf("%s: behind are %q, want %q", name, got, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	if err := refusals(version(map[string]bsn.PlacementStatus{"paris": "accepted", "rome": "serving"})); err != nil {
		t.Error(err)
	}
	err := refusals(version(map[string]bsn.PlacementStatus{"paris": "refused", "rome": "refused"}))
	if !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
	for _, want := range []string{`city "paris"`, "because of paris", `city "rome"`, "because of rome", "--cities"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

// records is a city's API that knows one app.
type records struct {
	cityv1connect.UnimplementedCityServiceHandler
	app func() bsn.App
}

func (r records) Get(context.Context, *connect.Request[cityv1.GetRequest]) (*connect.Response[cityv1.GetResponse], error) {
	b, err := json.Marshal(r.app())
	return connect.NewResponse(&cityv1.GetResponse{Record: b}), err
}

func TestWaitFollowsTheRecord(t *testing.T) {
	states := []bsn.Version{
		version(nil),
		version(map[string]bsn.PlacementStatus{"paris": "accepted"}),
		version(map[string]bsn.PlacementStatus{"paris": "accepted", "rome": "serving"}),
		version(map[string]bsn.PlacementStatus{"paris": "refused", "rome": "serving"}),
	}
	at := 0
	_, handler := cityv1connect.NewCityServiceHandler(records{app: func() bsn.App {
		v := states[min(at, len(states)-1)]
		at++
		return bsn.App{Account: "alice", Name: "x", Versions: []bsn.Version{v}}
	}})
	s := httptest.NewServer(handler)
	defer s.Close()
	p := Publisher{Account: "alice", City: api.DialUnsigned(s.URL, nil)}
	if v, err := p.wait(t.Context(), "x", 1, bsn.PlacementAccepted); err != nil || at != 3 || len(v.Placements) != 2 {
		t.Errorf("accepted after %d looks: %+v %v", at, v, err)
	}
	if _, err := p.wait(t.Context(), "x", 1, bsn.PlacementServing); !errors.Is(err, ErrRefused) {
		t.Errorf("one refused: %v", err)
	}
	if _, err := p.wait(t.Context(), "x", 2, bsn.PlacementServing); err == nil || !strings.Contains(err.Error(), "no version 2") {
		t.Errorf("no such version: %v", err)
	}
	at = 1
	states = states[:2]
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.wait(ctx, "x", 1, bsn.PlacementServing); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody moves: %v", err)
	}
}

func TestAnswersWaitsForTheGateway(t *testing.T) {
	const key = "bsn_secret"
	calls := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != key {
			t.Error("the key is missing")
		}
		if calls++; calls < 3 {
			http.Error(w, "no such app", http.StatusNotFound)
			return
		}
		io.WriteString(w, `{"app":"alice/x","version":2,"artifact":"aa","contracts":[{"name":"C","address":"0xAB"}]}`)
	}))
	defer s.Close()
	v := bsn.Version{Number: 2, Artifact: "aa", Contracts: []bsn.Contract{{Name: "C", Address: "0xab"}}}
	if err := answers(t.Context(), s.URL, key, "alice/x", v); err != nil || calls != 3 {
		t.Errorf("after %d calls: %v", calls, err)
	}
	// A city that says something else than the ledger is found out.
	for _, other := range []bsn.Version{
		{Number: 1, Artifact: "aa", Contracts: v.Contracts},
		{Number: 2, Artifact: "bb", Contracts: v.Contracts},
		{Number: 2, Artifact: "aa"},
		{Number: 2, Artifact: "aa", Contracts: []bsn.Contract{{Name: "C", Address: "0xcd"}}},
	} {
		if err := answers(t.Context(), s.URL, key, "alice/x", other); err == nil || !strings.Contains(err.Error(), "do not use this city") {
			t.Errorf("%+v: %v", other, err)
		}
	}
	calls = -1000
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := answers(ctx, s.URL, key, "alice/x", v); err == nil || strings.Contains(err.Error(), key) {
		t.Errorf("a gateway that does not know the app: %v", err)
	}
}
