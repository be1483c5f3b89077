package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bsn.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLaterFilesAndEnvironmentOverride(t *testing.T) {
	t.Setenv("BSN_GATEWAY_MAXLAG", "9")
	t.Setenv("BSN_HOME", "/nowhere") // not a setting: no error
	first := write(t, "log: {level: debug}\ngateway: {maxBatch: 7, upstreamTimeout: 5s}\n")
	second := write(t, "gateway: {maxBatch: 8}\ncity: {refuse: [{app: mallory/*, reason: unpaid}]}\nsoftware: {binaries: {kaia: /opt/kaia}}\n")
	c, err := Load(first, filepath.Join(t.TempDir(), "none.yaml"), second)
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != slog.LevelDebug || c.Gateway.MaxBatch != 8 || c.Gateway.MaxLag != 9 || c.Gateway.UpstreamTimeout != 5*time.Second || c.Gateway.RequestsPerSecond != 50 {
		t.Errorf("got %+v", c)
	}
	if c.Software.Binaries["kaia"] != "/opt/kaia" {
		t.Errorf("binaries: %v", c.Software.Binaries)
	}
	if got := c.City.Refused("mallory", "game"); got != "unpaid" {
		t.Errorf("mallory is refused for %q", got)
	}
	if got := c.City.Refused("alice", "game"); got != "" {
		t.Errorf("alice is refused for %q", got)
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"gateway: {maxBatches: 7}":                 "maxBatches",
		"gateway: {upstreamTimeout: soon}":         "upstreamTimeout",
		"log: {level: loud}":                       "loud",
		"city: {api: localhost}":                   "city.api",
		"city: {refuse: [{app: mallory}]}":         "account/*",
		"city: {refuse: [{app: mallory/game}]}":    "reason",
		"software: {binaries: {kaia: bin/k}}":      "absolute",
		"gateway: [":                               "bsn.yaml",
		"gateway: {alone: {reads: 1s}}":            "gateway.alone",
		"gateway: {tls: {certificate: /c.pem}}":    "gateway.tls",
		"gateway: {tls: {certificate: c, key: k}}": "absolute paths",
		"gateway: {trustedProxies: 10.0.0.0/40}":   "gateway.trustedProxies",
		"gateway: {proxyHeader: via}":              "gateway.proxyHeader",
		"artifacts: {maxBytes: 0}":                 "artifacts.maxBytes",
	} {
		path := write(t, text)
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error with %q and the file", text, err, want)
		}
	}
}
