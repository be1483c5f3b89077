package city

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/link"
)

// invitationLife is how long an invitation can be used.
const invitationLife = 7 * 24 * time.Hour

const invitationPrefix = "bsn-invitation-"

// maxInvitation bounds the text of an invitation in bytes.
const maxInvitation = 4 << 10

// Invitation lets one named city apply through the city that issued it. It
// admits nobody: the operators' vote does.
type Invitation struct {
	Network string  `json:"network"`
	Net     bsn.Net `json:"net"`
	// Genesis is the SHA-256 of the ledger's genesis in hex, so that the new city
	// does not have to trust what it is handed.
	Genesis string `json:"genesis"`
	// Trust is a block of the ledger, for the same reason.
	Trust ledger.Trust `json:"trust,omitzero"`
	City  string       `json:"city"` // who may apply
	// Where to apply: over the link, if the issuing city has an address for it, else at
	// its API.
	API     string   `json:"api"`
	NodeKey []byte   `json:"nodeKey"` // the issuing city's
	Link    []string `json:"link,omitempty"`
	Expires int64    `json:"expires"`
	Nonce   []byte   `json:"nonce"`
	// Signature by the issuing city's key of the JSON of the other fields.
	Signature []byte `json:"signature,omitempty"`
}

func (i Invitation) text() []byte {
	i.Signature = nil
	b, err := json.Marshal(i)
	if err != nil {
		panic(err) // strings, numbers and bytes always have a JSON form
	}
	return b
}

// Invite issues an invitation for a city of the given name, to be used at the
// issuing city's link (host:port) or, if that is empty, at its API.
func (h Home) Invite(city, apiURL string, link []string) (string, error) {
	if err := bsn.CheckName("city", city); err != nil {
		return "", err
	}
	s, err := h.Load()
	if err != nil {
		return "", err
	}
	if s.Network == "" {
		return "", fmt.Errorf("city %q is not part of a network yet", h.Name)
	}
	genesis, err := os.ReadFile(ledger.GenesisFile(h.ledger()))
	if err != nil {
		return "", fmt.Errorf("read genesis: %w", err)
	}
	k, err := key.Load(h.keyFile())
	if err != nil {
		return "", err
	}
	trust, err := h.trust(context.Background(), s)
	if err != nil {
		trust = ledger.Trust{} // the new city follows the ledger block by block
	}
	id, err := ledger.InitNode(h.ledger())
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(genesis)
	i := Invitation{
		NodeKey: id.NodeKey, Link: link,
		Network: s.Network, Net: s.Net, Genesis: hex.EncodeToString(sum[:]), Trust: trust, City: city, API: apiURL,
		Expires: time.Now().Add(invitationLife).Unix(), Nonce: make([]byte, 8),
	}
	rand.Read(i.Nonce) // never fails
	i.Signature = k.Sign(i.text())
	b, err := json.Marshal(i)
	if err != nil {
		return "", fmt.Errorf("encode invitation: %w", err)
	}
	return invitationPrefix + base64.RawURLEncoding.EncodeToString(b), nil
}

// ParseInvitation reads an invitation's text. Whether it is genuine only the
// issuing city knows.
func ParseInvitation(text string) (i Invitation, err error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, invitationPrefix)
	if !ok || len(text) > maxInvitation {
		return i, fmt.Errorf("not an invitation: it begins with %q", invitationPrefix)
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return i, fmt.Errorf("decode invitation: %w", err)
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return i, fmt.Errorf("decode invitation: %w", err)
	}
	return i, nil
}

// ErrRejected means that the operators did not admit the city.
var ErrRejected = errors.New("the operators did not admit the city")

// Join applies with an invitation and waits until the operators have decided,
// reporting each step. It may be cut off and called again at any point. Error:
// ErrRejected.
func (h Home) Join(ctx context.Context, invitation string, report func(string)) error {
	i, err := ParseInvitation(invitation)
	if err != nil {
		return err
	}
	s, err := h.Load()
	if err != nil {
		return err
	}
	switch {
	case s.Network == i.Network && s.Index > 0:
		return nil // joined before
	case s.Network != "":
		return fmt.Errorf("city %q is part of network %q already", h.Name, s.Network)
	case i.City != h.Name:
		return fmt.Errorf("the invitation is for city %q, not for %q", i.City, h.Name)
	}
	a, err := h.Init(s.Operator)
	if err != nil {
		return err
	}
	client, end, err := h.dialInviter(i, invitation)
	if err != nil {
		return err
	}
	defer end()
	q := &cityv1.ApplyRequest{
		Invitation: invitation, Operator: a.Operator, OperatorKey: a.OperatorKey, City: a.City, CityKey: a.CityKey,
		ConsensusKey: a.ConsensusKey, NodeKey: a.NodeKey,
	}
	for said := ""; ; {
		r, err := client.Apply(ctx, q)
		final := said == "" || errors.Is(err, api.ErrApplication) || errors.Is(err, ledger.ErrRefused) || ctx.Err() != nil
		if err != nil && !final { // the votes may take days
			report("the inviting city does not answer, trying again: " + err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("apply at %s: %w", or(strings.Join(i.Link, ", "), i.API), err)
		}
		switch bsn.ProposalStatus(r.Status) {
		case bsn.ProposalPassed:
			return h.joined(s, i, r)
		case bsn.ProposalOpen:
		default:
			return fmt.Errorf("%w: proposal %d is %s %s", ErrRejected, r.Proposal, r.Status, r.Reason)
		}
		if now := fmt.Sprintf("applied: waiting for the operators' votes on proposal %d (bsn vote %d yes)", r.Proposal, r.Proposal); now != said {
			said = now
			report(said)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the vote on proposal %d: %w", r.Proposal, ctx.Err())
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// dialInviter makes a client of the inviting city.
func (h Home) dialInviter(i Invitation, text string) (c *api.Client, end func() error, err error) {
	if len(i.Link) == 0 {
		return api.DialUnsigned(i.API, nil), func() error { return nil }, nil
	}
	key, err := ledger.NodeKey(h.ledger())
	if err != nil {
		return nil, nil, err
	}
	door, err := link.Knock(key, bsn.City{Name: "that invited", NodeKey: i.NodeKey, Link: i.Link}, strings.TrimSpace(text), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	return api.DialUnsigned("http://inviting-city", door.Dial), door.Close, nil
}

func (h Home) joined(s State, i Invitation, r *cityv1.ApplyResponse) error {
	if sum := sha256.Sum256(r.Genesis); hex.EncodeToString(sum[:]) != i.Genesis {
		return errors.New("the ledger's genesis is not the one that the invitation names: do not join, ask the inviting operator")
	}
	if network, net, err := ledger.GenesisNet(r.Genesis); err != nil {
		return err
	} else if network != i.Network || net != i.Net {
		return fmt.Errorf("the ledger's genesis is of network %q at 127.%d, the invitation of %q at 127.%d: do not join", network, net, i.Network, i.Net)
	}
	var c bsn.City
	if err := json.Unmarshal(r.Record, &c); err != nil {
		return fmt.Errorf("decode city's record: %w", err)
	}
	if c.Name != h.Name || c.Index < 1 || c.Index > bsn.MaxCities {
		return fmt.Errorf("the inviting city answered with the record of city %q, number %d", c.Name, c.Index)
	}
	if err := ledger.WriteGenesis(h.ledger(), r.Genesis); err != nil {
		return err
	}
	s.Network, s.Net, s.Index, s.Trust = i.Network, i.Net, c.Index, i.Trust
	for _, b := range r.Cities {
		var o bsn.City
		if err := json.Unmarshal(b, &o); err != nil {
			return fmt.Errorf("decode record of another city: %w", err)
		}
		s.Cities = append(s.Cities, o)
	}
	return h.save(s)
}

// apply is the inviting city's side of Join. It keeps nothing: how an application
// stands is read from the ledger.
func (d *daemon) apply(ctx context.Context, q *cityv1.ApplyRequest) (*cityv1.ApplyResponse, error) {
	i, err := ParseInvitation(q.Invitation)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", api.ErrApplication, err)
	}
	if err := d.issued(i); err != nil {
		return nil, fmt.Errorf("%w: %w", api.ErrApplication, err)
	}
	if q.City != i.City {
		return nil, fmt.Errorf("%w: the invitation is for city %q, not for %q", api.ErrApplication, i.City, q.City)
	}
	a := ledger.Admission{
		Operator: q.Operator, OperatorKey: q.OperatorKey, City: q.City, CityKey: q.CityKey,
		ConsensusKey: q.ConsensusKey, NodeKey: q.NodeKey,
	}
	if r, found, err := d.admitted(ctx, a); found || err != nil {
		return r, err
	}
	p, found, err := d.application(ctx, a)
	if err != nil {
		return nil, err
	}
	if !found {
		summary := fmt.Sprintf("admit city %s of operator %s (key %s)", a.City, a.Operator, key.Fingerprint(a.OperatorKey))
		_, client := d.own.get()
		res, err := client.Write(ctx, ledger.Propose(summary, ledger.AdmitCity(a)))
		if err != nil {
			return nil, err
		}
		return &cityv1.ApplyResponse{Proposal: res.Proposal(), Status: string(bsn.ProposalOpen)}, nil
	}
	if p.Status == bsn.ProposalPassed { // since the first look
		if r, found, err := d.admitted(ctx, a); found || err != nil {
			return r, err
		}
	}
	return &cityv1.ApplyResponse{Proposal: p.ID, Status: string(p.Status), Reason: p.Reason}, nil
}

// issued tells whether this city issued an invitation that can still be used.
func (d *daemon) issued(i Invitation) error {
	own, _ := d.own.get()
	switch {
	case i.Network != d.state.Network || !key.Verify(own.Public(), i.text(), i.Signature):
		return errors.New("this city did not issue the invitation")
	case time.Now().Unix() > i.Expires:
		return errors.New("the invitation has expired: ask for another")
	}
	return nil
}

// admitted answers for a city that the ledger knows.
func (d *daemon) admitted(ctx context.Context, a ledger.Admission) (*cityv1.ApplyResponse, bool, error) {
	b, err := d.ledger.Get(ctx, bsn.KindCity, a.City)
	if errors.Is(err, bsn.ErrNoRecord) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	var c bsn.City
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, false, fmt.Errorf("decode city: %w", err)
	}
	if !bytes.Equal(c.NodeKey, a.NodeKey) {
		return nil, false, fmt.Errorf("%w: there is another city %q", api.ErrApplication, a.City)
	}
	genesis, err := os.ReadFile(ledger.GenesisFile(d.home.ledger()))
	if err != nil {
		return nil, false, fmt.Errorf("read genesis: %w", err)
	}
	r := &cityv1.ApplyResponse{Status: string(bsn.ProposalPassed), Record: b, Genesis: genesis}
	cities, err := readAll[bsn.City](ctx, d.ledger, bsn.KindCity)
	if err != nil {
		return nil, false, err
	}
	for _, o := range cities {
		if o.Name == a.City || !o.Status.Member() {
			continue
		}
		b, err := json.Marshal(o)
		if err != nil {
			return nil, false, fmt.Errorf("encode city: %w", err)
		}
		r.Cities = append(r.Cities, b)
	}
	return r, true, nil
}

// application finds the newest proposal to admit this very city.
func (d *daemon) application(ctx context.Context, a ledger.Admission) (found bsn.Proposal, ok bool, err error) {
	proposals, err := readAll[bsn.Proposal](ctx, d.ledger, bsn.KindProposal)
	if err != nil {
		return found, false, err
	}
	for _, p := range proposals {
		var m struct {
			City    string `json:"city"`
			NodeKey []byte `json:"node_key"`
		}
		if p.Effect != "admit-city" || json.Unmarshal([]byte(p.Message), &m) != nil || m.City != a.City {
			continue
		}
		if bytes.Equal(m.NodeKey, a.NodeKey) {
			found, ok = p, true
		} else if p.Status == bsn.ProposalOpen {
			return found, false, fmt.Errorf("%w: another one for a city %q is open: proposal %d", api.ErrApplication, a.City, p.ID)
		}
	}
	return found, ok, nil
}
