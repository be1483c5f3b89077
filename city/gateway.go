package city

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway"
)

// gatewayID names the gateway in the runtime.
const gatewayID = "gateway"

// journalFolder is where the gateway counts what is called, in its own folder.
const journalFolder = "journal"

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

// forwardSocket is where the gateway takes calls of other cities' gateways, in its own
// folder, which nobody else can enter.
const forwardSocket = "forward.sock"

// toGateway connects another city's gateway with this one's, and tells it whose it is.
func (d *daemon) toGateway(ctx context.Context, city string) (*net.UnixConn, error) {
	if city == "" {
		return nil, errors.New("only cities call a gateway as gateways")
	}
	// The kernel also knows the folder by the number under which it is open here: the
	// path of a socket must be short.
	dir, err := os.Open(filepath.Join(d.home.Nodes(), gatewayID))
	if err != nil {
		return nil, fmt.Errorf("open the gateway's folder: %w", err)
	}
	defer dir.Close()
	c, err := new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), forwardSocket))
	if err != nil {
		return nil, fmt.Errorf("connect to the gateway: %w", err)
	}
	if _, err := c.Write([]byte(gateway.Preamble(city))); err != nil {
		c.Close()
		return nil, fmt.Errorf("tell the gateway who calls: %w", err)
	}
	return c.(*net.UnixConn), nil
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
			City: d.home.Name, Network: d.state.Network, Net: d.state.Net, Listen: listen, Metrics: or(g.Metrics, d.addr(bsn.PortMetrics)), State: "records.json", Journal: journalFolder, Handover: "handover.sock", Forward: forwardSocket,
			TLS: gateway.TLS(g.TLS), TrustedProxies: g.Proxies(), ProxyHeader: g.ProxyHeader,
			MaxRequestBytes: g.MaxRequestBytes, MaxResponseBytes: g.MaxResponseBytes, CompressBytes: g.CompressBytes, MaxMemoryBytes: g.MaxMemoryBytes,
			MaxConnections: g.MaxConnections, MaxConnectionsPerClient: g.MaxConnectionsPerClient, MaxBatch: g.MaxBatch,
			HeaderTimeout: g.HeaderTimeout, ReadTimeout: g.ReadTimeout, WriteTimeout: g.WriteTimeout, IdleTimeout: g.IdleTimeout,
			DrainTimeout:     g.DrainTimeout,
			MaxSubscriptions: g.MaxSubscriptions, MaxBackfill: g.MaxBackfill, RequestsPerSecond: g.RequestsPerSecond,
			AppRequestsPerSecond: g.AppRequestsPerSecond, UnitsPerSecond: g.UnitsPerSecond, MaxLag: g.MaxLag, UpstreamTimeout: g.UpstreamTimeout,
			Alone: gateway.Alone{Reads: g.Alone.Reads, Writes: g.Alone.Writes},
			Cache: gateway.Cache{MaxBytes: g.Cache.MaxBytes, Head: g.Cache.Head}, Outside: g.Outside, Traces: gateway.Traces(g.Traces), Cordons: d.home.cordonFile(),
		},
	}
	b, err := json.Marshal(role)
	if err != nil {
		return fmt.Errorf("encode gateway's configuration: %w", err)
	}
	return d.runtime.Start(ctx, bsn.NodeSpec{
		ID: gatewayID, Binary: d.binary.path, Args: []string{"gateway", "run", GatewayFile},
		// With another binary in its place the gateway is started anew.
		Env:     append(tracesEnvironment(), "BSN_BINARY="+d.binary.stamp),
		Files:   []bsn.File{{Path: GatewayFile, Mode: 0o600, Content: b}},
		Address: listen[0], Ports: map[string]int{"http": bsn.PortGateway}, StopTimeout: g.DrainTimeout + 5*time.Second,
		Handover: true,
	})
}

// tracesEnvironment is what the daemon's environment says of OpenTelemetry, which is
// for the gateway: the only one that sends traces.
func tracesEnvironment() (env []string) {
	for _, pair := range os.Environ() {
		if strings.HasPrefix(pair, "OTEL_") {
			env = append(env, pair)
		}
	}
	slices.Sort(env) // a change of order is no change
	return env
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
