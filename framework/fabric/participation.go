package fabric

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/netip"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/fabric/authority"
)

const (
	participationPath = "/participation/v1/channels"
	// maxAnswer bounds an answer of an orderer, in bytes: one lists its channels.
	maxAnswer = 1 << 20
)

// Orderer rules a city's orderer over Fabric's channel participation API. It may be
// used by many goroutines at once.
type Orderer struct {
	address netip.AddrPort
	client  *http.Client
}

// Participation is an orderer's part in a channel, in Fabric's words.
type Participation struct {
	Name string `json:"name"`
	// Relation is consenter, or follower if it is none of the channel's orderers.
	Relation string `json:"consensusRelation"`
	// Status is onboarding, active, inactive or failed. A removed orderer goes on to
	// say active, with a height that stays, until it is restarted.
	Status string `json:"status"`
	Height uint64 `json:"height"` // number of blocks
}

// ErrNotJoined means that an orderer or a peer does not know the channel.
var ErrNotJoined = errors.New("channel is not joined")

// NewOrderer speaks to the orderer of the operator's own city with the credentials
// of an administrator.
func NewOrderer(site bsn.Site, admin authority.Credentials) (*Orderer, error) {
	config, err := clientTLS(admin.Roots.TLS)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{admin.TLS}
	return &Orderer{
		address: netip.AddrPortFrom(Address(site), portAdmin),
		client:  &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: config, MaxIdleConns: 1, IdleConnTimeout: time.Minute}},
	}, nil
}

// clientTLS trusts one root.
func clientTLS(root []byte) (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		return nil, errors.New("the TLS root is no certificate in PEM")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// Close closes idle connections.
func (o *Orderer) Close() { o.client.CloseIdleConnections() }

// Join makes the orderer take part in a channel, by its block 0 or a later
// configuration block. That it takes part already is no error.
func (o *Orderer) Join(ctx context.Context, channel string, block []byte) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("config-block", "config.block")
	if err == nil {
		_, err = part.Write(block)
	}
	if err == nil {
		err = form.Close()
	}
	if err == nil {
		_, err = o.do(ctx, http.MethodPost, "", form.FormDataContentType(), &body, http.StatusCreated)
	}
	if err == nil {
		return nil
	}
	if _, known := o.Channel(ctx, channel); known == nil {
		return nil
	}
	return fmt.Errorf("join channel %s at orderer %s: %w", channel, o.address, err)
}

// Channel tells of the orderer's part in a channel. Error: [ErrNotJoined].
func (o *Orderer) Channel(ctx context.Context, name string) (Participation, error) {
	var p Participation
	text, err := o.do(ctx, http.MethodGet, "/"+name, "", nil, http.StatusOK)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, fmt.Errorf("ask orderer %s for channel %s: %w", o.address, name, err)
	}
	return p, nil
}

// Channels are the names of the channels that the orderer takes part in.
func (o *Orderer) Channels(ctx context.Context) ([]string, error) {
	var list struct {
		Channels []struct{ Name string } `json:"channels"`
	}
	text, err := o.do(ctx, http.MethodGet, "", "", nil, http.StatusOK)
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("list channels of orderer %s: %w", o.address, err)
	}
	names := make([]string, len(list.Channels))
	for i, c := range list.Channels {
		names[i] = c.Name
	}
	return names, nil
}

// Leave makes the orderer give up a channel and delete it. It returns when that is
// done, so that a kill right after it leaves nothing.
func (o *Orderer) Leave(ctx context.Context, name string) error {
	_, err := o.do(ctx, http.MethodDelete, "/"+name, "", nil, http.StatusNoContent)
	for err == nil {
		if _, err = o.Channel(ctx, name); err == nil {
			err = sleep(ctx, 50*time.Millisecond)
		}
	}
	if errors.Is(err, ErrNotJoined) {
		return nil
	}
	return fmt.Errorf("leave channel %s at orderer %s: %w", name, o.address, err)
}

func (o *Orderer) do(ctx context.Context, method, path, kind string, body io.Reader, want int) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://"+o.address.String()+participationPath+path, body)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	answer, err := o.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, err
	case answer.StatusCode == want:
		return text, nil
	case answer.StatusCode == http.StatusNotFound:
		return nil, ErrNotJoined
	}
	var refusal struct{ Error string }
	if json.Unmarshal(text, &refusal) != nil || refusal.Error == "" {
		refusal.Error = answer.Status
	}
	return nil, errors.New(refusal.Error)
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
