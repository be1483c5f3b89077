// Package config is bsn's one configuration. Its settings, what they mean and
// what holds without them are in default.yaml.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
)

// Default is the documented default configuration.
//
//go:embed default.yaml
var Default []byte

// maxFile is the most bytes of a configuration file.
const maxFile = 1 << 20

// Config is the whole configuration.
type Config struct {
	Log       Log       `yaml:"log"`
	City      City      `yaml:"city"`
	Ledger    Ledger    `yaml:"ledger"`
	Gateway   Gateway   `yaml:"gateway"`
	Artifacts Artifacts `yaml:"artifacts"`
	Software  Software  `yaml:"software"`
}

// Log is the section of that name.
type Log struct {
	Level slog.Level `yaml:"level"`
}

// City is the section of that name.
type City struct {
	API     string    `yaml:"api"`
	Metrics string    `yaml:"metrics"`
	Link    Link      `yaml:"link"`
	Refuse  []Refusal `yaml:"refuse"`
}

// Ledger is the section of that name.
type Ledger struct {
	SnapshotInterval uint64 `yaml:"snapshotInterval"`
	Snapshots        uint32 `yaml:"snapshots"`
	Blocks           uint64 `yaml:"blocks"`
}

// Link is the section city.link.
type Link struct {
	Listen      string `yaml:"listen"`
	Announce    string `yaml:"announce"`
	PortMapping bool   `yaml:"portMapping"`
}

// Addresses splits Listen.
func (l Link) Addresses() []string { return split(l.Listen) }

// Announced is Announce, or else the addresses in Listen that other machines can
// reach, as far as one can tell.
func (l Link) Announced() []string {
	if l.Announce != "" {
		return split(l.Announce)
	}
	var out []string
	for _, text := range l.Addresses() {
		if a, err := netip.ParseAddrPort(text); err == nil && a.Addr().IsGlobalUnicast() {
			out = append(out, text)
		}
	}
	return out
}

// Refusal is an app, or "account/*", that a city does not take.
type Refusal struct {
	App    string `yaml:"app"`
	Reason string `yaml:"reason"`
}

// Gateway is the section of that name.
type Gateway struct {
	Listen               string        `yaml:"listen"`
	Metrics              string        `yaml:"metrics"`
	MaxRequestBytes      int64         `yaml:"maxRequestBytes"`
	MaxResponseBytes     int64         `yaml:"maxResponseBytes"`
	MaxBatch             int           `yaml:"maxBatch"`
	MaxSubscriptions     int           `yaml:"maxSubscriptions"`
	MaxBackfill          int           `yaml:"maxBackfill"`
	RequestsPerSecond    int           `yaml:"requestsPerSecond"`
	AppRequestsPerSecond int           `yaml:"appRequestsPerSecond"`
	UnitsPerSecond       int           `yaml:"unitsPerSecond"`
	MaxLag               int64         `yaml:"maxLag"`
	UpstreamTimeout      time.Duration `yaml:"upstreamTimeout"`
	Alone                Alone         `yaml:"alone"`

	TLS                     TLS           `yaml:"tls"`
	TrustedProxies          string        `yaml:"trustedProxies"`
	ProxyHeader             string        `yaml:"proxyHeader"`
	CompressBytes           int           `yaml:"compressBytes"`
	MaxMemoryBytes          int64         `yaml:"maxMemoryBytes"`
	MaxConnections          int           `yaml:"maxConnections"`
	MaxConnectionsPerClient int           `yaml:"maxConnectionsPerClient"`
	HeaderTimeout           time.Duration `yaml:"headerTimeout"`
	ReadTimeout             time.Duration `yaml:"readTimeout"`
	WriteTimeout            time.Duration `yaml:"writeTimeout"`
	IdleTimeout             time.Duration `yaml:"idleTimeout"`
	DrainTimeout            time.Duration `yaml:"drainTimeout"`

	Cache   Cache  `yaml:"cache"`
	Outside string `yaml:"outside"`
	Traces  Traces `yaml:"traces"`
}

// Traces is the section gateway.traces.
type Traces struct {
	Endpoint string  `yaml:"endpoint"`
	Ratio    float64 `yaml:"ratio"`
}

// Cache is the section gateway.cache.
type Cache struct {
	MaxBytes int64         `yaml:"maxBytes"`
	Head     time.Duration `yaml:"head"`
}

// TLS is the section gateway.tls.
type TLS struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// Alone is the section gateway.alone.
type Alone struct {
	Reads  time.Duration `yaml:"reads"`
	Writes time.Duration `yaml:"writes"`
}

// Artifacts is the section of that name.
type Artifacts struct {
	MaxBytes       int64 `yaml:"maxBytes"`
	MaxTotalBytes  int64 `yaml:"maxTotalBytes"`
	MaxUploadBytes int64 `yaml:"maxUploadBytes"`
}

// Software is the section of that name.
type Software struct {
	Source   string            `yaml:"source"`
	Binaries map[string]string `yaml:"binaries"`
}

// Load reads the default, then the files that exist, then the environment. The
// error names the file and the setting.
func Load(files ...string) (Config, error) {
	k := koanf.New(".")
	if err := k.Load(rawbytes.Provider(Default), yaml.Parser()); err != nil {
		return Config{}, fmt.Errorf("read default configuration: %w", err)
	}
	for _, file := range files {
		if err := loadFile(k, file); err != nil {
			return Config{}, err
		}
	}
	settings := map[string]string{} // BSN_GATEWAY_MAXLAG to gateway.maxLag
	for _, key := range k.Keys() {
		settings["BSN_"+strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))] = key
	}
	err := k.Load(env.Provider(".", env.Opt{Prefix: "BSN_", TransformFunc: func(name, value string) (string, any) {
		return settings[name], value // an empty key is skipped
	}}), nil)
	if err != nil {
		return Config{}, fmt.Errorf("read environment: %w", err)
	}
	return decode(k, "configuration")
}

func loadFile(k *koanf.Koanf, file string) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if len(b) > maxFile {
		return fmt.Errorf("read %s: %d bytes, the most is %d", file, len(b), maxFile)
	}
	if err := k.Load(rawbytes.Provider(b), yaml.Parser()); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	// Decoded once here so that the error can name the file.
	_, err = decode(k, file)
	return err
}

func decode(k *koanf.Koanf, from string) (c Config, err error) {
	err = k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		TagName: "yaml", ErrorUnused: true, WeaklyTypedInput: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.StringToTimeDurationHookFunc(), mapstructure.TextUnmarshallerHookFunc()),
	}})
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", from, err)
	}
	return c, nil
}

func (c Config) check() error {
	for name, addr := range map[string]string{"city.api": c.City.API, "city.metrics": c.City.Metrics, "gateway.metrics": c.Gateway.Metrics} {
		if err := checkAddr(addr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, addr := range c.City.Link.Addresses() {
		if err := checkAddr(addr); err != nil {
			return fmt.Errorf("city.link.listen: %w", err)
		}
	}
	for _, addr := range c.City.Link.Announced() {
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return fmt.Errorf("city.link.announce: %q must be host:port, such as paris.example.org:7800", addr)
		}
	}
	for _, addr := range c.Gateway.Addresses() {
		if err := checkAddr(addr); err != nil {
			return fmt.Errorf("gateway.listen: %w", err)
		}
	}
	if t := c.Gateway.TLS; (t.Certificate == "") != (t.Key == "") ||
		t.Certificate != "" && (!filepath.IsAbs(t.Certificate) || !filepath.IsAbs(t.Key)) {
		return errors.New("gateway.tls: certificate and key must both be given, as absolute paths")
	}
	for _, network := range c.Gateway.Proxies() {
		_, err := netip.ParsePrefix(network)
		if _, addrErr := netip.ParseAddr(network); err != nil && addrErr != nil {
			return fmt.Errorf("gateway.trustedProxies: %q must be an address, or a network such as 10.0.0.0/8", network)
		}
	}
	if h := strings.ToLower(c.Gateway.ProxyHeader); h != "x-forwarded-for" && h != "forwarded" {
		return fmt.Errorf("gateway.proxyHeader: %q must be x-forwarded-for or forwarded", c.Gateway.ProxyHeader)
	}
	for _, r := range c.City.Refuse {
		if account, app, ok := strings.Cut(r.App, "/"); !ok || account == "" || app == "" {
			return fmt.Errorf("city.refuse: %q must be account/app or account/*", r.App)
		}
		if r.Reason == "" {
			return fmt.Errorf("city.refuse: %q needs a reason: the publisher is shown it", r.App)
		}
	}
	for name, path := range c.Software.Binaries {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("software.binaries.%s: %q must be an absolute path", name, path)
		}
	}
	if path := c.Gateway.Outside; path != "" && !filepath.IsAbs(path) {
		return fmt.Errorf("gateway.outside: %q must be an absolute path", path)
	}
	if a := c.Gateway.Alone; a.Writes < time.Second || a.Reads < a.Writes {
		return fmt.Errorf("gateway.alone: reads (%v) must be at least as long as writes (%v), and those a second", a.Reads, a.Writes)
	}
	if c.Ledger.SnapshotInterval > 0 && c.Ledger.Snapshots < 2 {
		return errors.New("ledger.snapshots must be at least 2: who fetches one needs the time until the next")
	}
	if c.Artifacts.MaxBytes < 1 {
		return errors.New("artifacts.maxBytes must be above 0")
	}
	if c.Artifacts.MaxTotalBytes < c.Artifacts.MaxBytes || c.Artifacts.MaxUploadBytes < 1 {
		return errors.New("artifacts.maxTotalBytes must not be below artifacts.maxBytes, and artifacts.maxUploadBytes must be above 0")
	}
	return nil
}

// Addresses splits Listen.
func (g Gateway) Addresses() []string { return split(g.Listen) }

// Proxies splits TrustedProxies.
func (g Gateway) Proxies() []string { return split(g.TrustedProxies) }

func split(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

func checkAddr(s string) error {
	if s == "" {
		return nil
	}
	if _, err := netip.ParseAddrPort(s); err != nil {
		return fmt.Errorf("%q must be an IP address and a port, such as 127.0.0.1:8080", s)
	}
	return nil
}

// Refused returns why the city does not take an app, or "".
func (c City) Refused(account, app string) string {
	for _, r := range c.Refuse {
		if r.App == account+"/"+app || r.App == account+"/*" {
			return r.Reason
		}
	}
	return ""
}
