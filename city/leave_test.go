package city

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
)

func TestRekeyAndDelete(t *testing.T) {
	h := Home{t.TempDir(), "paris"}
	a, err := h.Init("op")
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := h.Rekey()
	if err != nil || len(fresh) != 32 || bytes.Equal(fresh, a.ConsensusKey) {
		t.Fatalf("%x after %x: %v", fresh, a.ConsensusKey, err)
	}
	b, err := h.Init("op")
	if err != nil || !bytes.Equal(b.ConsensusKey, fresh) || !bytes.Equal(b.NodeKey, a.NodeKey) {
		t.Fatalf("keys of the city: %+v, %v", b, err)
	}
	if err := h.Found("op", "test-net", 77, bsn.Parameters{}); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(false); err == nil || !strings.Contains(err.Error(), "has to leave first") {
		t.Fatalf("a city of a network is deleted: %v", err)
	}
	s, err := h.Load()
	if err != nil {
		t.Fatal(err)
	}
	s.Ended = "has left the network"
	if err := h.save(s); err != nil {
		t.Fatal(err)
	}
	unlock, err := h.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(true); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Fatalf("a running city is deleted: %v", err)
	}
	if _, err := h.Rekey(); err == nil {
		t.Fatal("a running city gets another key")
	}
	unlock()
	if err := h.Delete(false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.Dir()); !os.IsNotExist(err) {
		t.Fatalf("its folder is still there: %v", err)
	}
}

func TestInTouch(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	city := func(name string, s bsn.CityStatus, ago time.Duration) bsn.City {
		return bsn.City{Name: name, Status: s, Since: now.Add(-ago).Unix()}
	}
	v := view{time: now, cities: map[string]bsn.City{}}
	for _, c := range []bsn.City{
		city("active", bsn.CityActive, time.Hour), city("leaving", bsn.CityLeaving, time.Hour), city("just-left", bsn.CityLeft, time.Second),
		city("left", bsn.CityLeft, time.Hour), city("evicted", bsn.CityEvicted, time.Hour),
	} {
		v.cities[c.Name] = c
	}
	got := map[string]bool{}
	for _, c := range inTouch(v) {
		got[c.Name] = true
	}
	if len(got) != 3 || !got["active"] || !got["leaving"] || !got["just-left"] {
		t.Errorf("in touch with %v", got)
	}
}
