package city

import (
	"context"
	"runtime/debug"
	"strings"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/city/cityv1"
)

// maxHeadAge is how old the newest block of a chain that the daemon itself runs
// may be before its node counts as stuck.
const maxHeadAge = 30

// askTimeout bounds how long a status waits for a node.
const askTimeout = 2 * time.Second

// status is what this city itself sees: it asks every node.
func (d *daemon) status(ctx context.Context) (*cityv1.StatusResponse, error) {
	s, err := d.ledger.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := &cityv1.StatusResponse{
		City: d.home.Name, Version: Version(),
		Ledger: &cityv1.LedgerStatus{
			Network: s.Network, Height: s.Height, Time: s.Time.UnixMilli(), Peers: int32(s.Peers),
			Syncing: s.Syncing, Validators: int32(s.Validators), Halted: s.Halted, Reachable: int32(s.Reachable),
			Restarting: s.Restarting, Error: s.Error, Protocol: s.Protocol, Supported: s.Supported,
		},
		Gateway: &cityv1.GatewayStatus{Url: "http://" + or(first(d.cfg.Gateway.Addresses()), d.addr(bsn.PortGateway))},
	}
	if age, known := d.mirror.clock.Age(); known {
		out.Ledger.Age = int64(age.Seconds())
	}
	for _, l := range d.link.state() {
		out.Links = append(out.Links, &cityv1.LinkStatus{
			City: l.City, Local: l.Local, Connected: l.Connected, Relayed: l.Relayed, Address: l.Address,
			LatencyNanoseconds: int64(l.Latency), Sent: l.Sent, Received: l.Received, Streams: int32(l.Streams), Error: l.Error,
		})
	}
	out.Waits = d.departure.get()
	sites := d.nodes.all()
	byID := map[string]bsn.Site{}
	for _, site := range sites {
		byID[nodeID(site.Chain)] = site
	}
	for _, n := range d.runtime.List() {
		site, ok := byID[n.ID]
		if !ok && n.ID != gatewayID && n.State == bsn.NodeStopped {
			continue // of a chain that this city has left
		}
		st := &cityv1.NodeStatus{
			Id: n.ID, Chain: site.Chain.Name, State: string(n.State), Pid: int32(n.PID),
			Restarts: int32(n.Restarts), Adopted: n.Adopted, Error: n.Error,
		}
		if n.ID == gatewayID {
			d.gatewayStatus(ctx, out.Gateway)
			st.Healthy, st.Error = out.Gateway.Healthy, or(out.Gateway.Error, n.Error)
			if st.Healthy {
				st.Error = ""
			}
		} else if ok {
			d.nodeStatus(ctx, site, st)
		}
		out.Nodes = append(out.Nodes, st)
	}
	return out, nil
}

func (d *daemon) gatewayStatus(ctx context.Context, g *cityv1.GatewayStatus) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	h, err := d.gatewayHealth(ctx)
	if err != nil {
		g.Error = err.Error()
		return
	}
	g.Healthy, g.LedgerHeight, g.LedgerAge, g.Alone = true, h.Height, h.Age, h.Alone
}

func (d *daemon) nodeStatus(ctx context.Context, site bsn.Site, st *cityv1.NodeStatus) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	h, err := d.frameworks[site.Chain.Framework].Health(ctx, site)
	if err != nil {
		if st.Error == "" {
			st.Error = err.Error()
		}
		return
	}
	st.Height, st.Peers = h.Height, int32(h.Peers)
	st.Healthy = !h.Syncing && h.HeadAge < maxHeadAge
	switch {
	case h.Syncing:
		st.Error = "catching up with its chain"
	case !st.Healthy:
		st.Error = "no new block for " + time.Duration(h.HeadAge*float64(time.Second)).Round(time.Second).String()
	default:
		st.Error = ""
	}
}

// Version is the version of this binary: of its module, else of its commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return strings.ToLower(s.Value[:min(12, len(s.Value))])
		}
	}
	return "devel"
}
