package city

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway"
)

// gatewayID names the gateway in the runtime.
const gatewayID = "gateway"

// GatewayFile is the configuration that the daemon hands its gateway, in the
// gateway's own folder.
const GatewayFile = "gateway.json"

// GatewayRole is what a gateway process needs.
type GatewayRole struct {
	Gateway gateway.Config `json:"gateway"`
	// API is the city's, and Secret what it is shown.
	API    string `json:"api"`
	Secret string `json:"secret"`
	Level  string `json:"level"`
}

// binary is the file that this daemon runs from, as it was at the start: the
// gateway is a role of it.
type binary struct {
	path  string
	stamp string // differs for another file at the same path
}

func ownBinary() (binary, error) {
	path, err := os.Executable()
	if err != nil {
		return binary{}, fmt.Errorf("find own binary: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return binary{}, fmt.Errorf("find own binary: %w", err)
	}
	return binary{path, fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())}, nil
}

// startGateway makes the gateway run: a process of its own, of the same binary.
func (d *daemon) startGateway(ctx context.Context) error {
	g := d.cfg.Gateway
	// Other cities come to the virtual address, people to what is configured.
	listen := d.beside(bsn.PortGateway, g.Addresses()...)
	role := GatewayRole{
		API: "http://" + d.addr(bsn.PortAPI), Secret: d.secret, Level: d.cfg.Log.Level.String(),
		Gateway: gateway.Config{
			City: d.home.Name, Network: d.state.Network, Net: d.state.Net, Listen: listen, Metrics: or(g.Metrics, d.addr(bsn.PortMetrics)), State: "records.json", Handover: "handover.sock",
			TLS: gateway.TLS(g.TLS), TrustedProxies: g.Proxies(), ProxyHeader: g.ProxyHeader,
			MaxRequestBytes: g.MaxRequestBytes, MaxResponseBytes: g.MaxResponseBytes, CompressBytes: g.CompressBytes,
			MaxConnections: g.MaxConnections, MaxConnectionsPerClient: g.MaxConnectionsPerClient, MaxBatch: g.MaxBatch,
			HeaderTimeout: g.HeaderTimeout, ReadTimeout: g.ReadTimeout, WriteTimeout: g.WriteTimeout, IdleTimeout: g.IdleTimeout,
			DrainTimeout:     g.DrainTimeout,
			MaxSubscriptions: g.MaxSubscriptions, MaxBackfill: g.MaxBackfill, RequestsPerSecond: g.RequestsPerSecond,
			AppRequestsPerSecond: g.AppRequestsPerSecond, UnitsPerSecond: g.UnitsPerSecond, MaxLag: g.MaxLag, UpstreamTimeout: g.UpstreamTimeout,
			Alone: gateway.Alone{Reads: g.Alone.Reads, Writes: g.Alone.Writes},
		},
	}
	b, err := json.Marshal(role)
	if err != nil {
		return fmt.Errorf("encode gateway's configuration: %w", err)
	}
	return d.runtime.Start(ctx, bsn.NodeSpec{
		ID: gatewayID, Binary: d.binary.path, Args: []string{"gateway", "run", GatewayFile},
		// With another binary in its place the gateway is started anew.
		Env:     []string{"BSN_BINARY=" + d.binary.stamp},
		Files:   []bsn.File{{Path: GatewayFile, Mode: 0o600, Content: b}},
		Address: listen[0], Ports: map[string]int{"http": bsn.PortGateway}, StopTimeout: g.DrainTimeout + 5*time.Second,
		Handover: true,
	})
}

// gatewayLedger is how a gateway stands to the ledger, as its /health says.
type gatewayLedger struct {
	Height int64  `json:"height"`
	Age    int64  `json:"ageSeconds"`
	Alone  string `json:"alone"`
}

// gatewayHealth asks the gateway itself.
func (d *daemon) gatewayHealth(ctx context.Context) (h gatewayLedger, err error) {
	url := "http://" + d.beside(bsn.PortGateway, d.cfg.Gateway.Addresses()...)[0] + "/health"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return h, fmt.Errorf("ask gateway: %w", err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return h, fmt.Errorf("ask gateway: %w", err)
	}
	defer res.Body.Close()
	var health struct {
		Ledger gatewayLedger `json:"ledger"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, res.Body, 1<<20)).Decode(&health); err != nil {
		return h, fmt.Errorf("ask gateway: %w", err)
	}
	return health.Ledger, nil
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
