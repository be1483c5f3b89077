package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/framework/kaia"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

// as does what bsn itself would not try, since it knows that it is refused:
//
//	as KEYFILE CITY status                      ask the city for its status
//	as KEYFILE CITY at CITY2 status             the same, with a request that is signed for CITY2
//	as KEYFILE CITY logs NODE                   read a node's log
//	as KEYFILE CITY put-artifact TEXT           store a package
//	as KEYFILE CITY vote ID                     vote yes
//	as KEYFILE CITY propose-committee CHAIN C…  open a proposal
//	as KEYFILE CITY activate                    say that the signing city follows the ledger
//	as KEYFILE CITY place APP VERSION STATUS    answer for a city where an app stands
//	as KEYFILE CITY post-node CHAIN             post a node's keys
//	as KEYFILE CITY post-keys CHAIN             post sound keys, of a node that there is not
//	as KEYFILE CITY propose-genesis CHAIN HASH
//	as KEYFILE CITY approve-genesis CHAIN HASH
//	as KEYFILE CITY set-contracts APP VERSION   say where an app's contracts are
//	as KEYFILE CITY register-account NAME       register an account as a portal
//	as KEYFILE CITY withdraw APP                withdraw an app by its bare name
//	as KEYFILE CITY revoke-project NAME
//
// A KEYFILE of "nobody" is a key that the network has never seen.
func as(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) < 3 {
		return output{}, errors.New("usage: as KEYFILE CITY ACTION …")
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	k := key.New()
	if args[0] != "nobody" {
		var err error
		if k, err = key.Load(filepath.Join(ts.Getenv("BSN_HOME"), args[0])); err != nil {
			return output{}, err
		}
	}
	signedFor, what := args[1], args[2:]
	if what[0] == "at" && len(what) > 2 {
		signedFor, what = what[1], what[2:]
	}
	network, url, err := contextOf(ts, args[1])
	if err != nil {
		return output{}, err
	}
	conn := api.Dial(url, network, signedFor, k)
	argument := func(i int) string {
		if i < len(what) {
			return what[i]
		}
		return ""
	}
	number, _ := strconv.Atoi(argument(2)) // 0 if it is none
	var message ledger.Message
	switch what[0] {
	case "status":
		s, err := conn.Status(ctx)
		return failed(output{stdout: fmt.Sprintln(s)}, err)
	case "logs":
		var log strings.Builder
		err := conn.Logs(ctx, &log, argument(1), 10, false)
		return failed(output{stdout: log.String()}, err)
	case "put-artifact":
		hash, err := conn.PutArtifact(ctx, []byte(argument(1)))
		return failed(output{stdout: hash + "\n"}, err)
	case "vote":
		id, err := strconv.ParseUint(argument(1), 10, 64)
		if err != nil {
			return output{}, err
		}
		message = ledger.Vote(id, true)
	case "propose-committee":
		message = ledger.Propose("of no importance", ledger.SetCommittee(argument(1), what[2:]))
	case "activate":
		message = ledger.ActivateCity()
	case "place":
		message = ledger.PlaceApp(argument(1), number, bsn.Placement{Status: bsn.PlacementStatus(argument(3))})
	case "post-node":
		message = ledger.PostNode(argument(1), map[string]string{"node": "a"})
	case "post-keys":
		keys, err := new(kaia.Kaia).Keys(bsn.Site{Dir: filepath.Join(ts.Getenv("WORK"), argument(1))})
		if err != nil {
			return output{}, err
		}
		message = ledger.PostNode(argument(1), keys)
	case "propose-genesis":
		message = ledger.ProposeGenesis(argument(1), argument(2))
	case "approve-genesis":
		message = ledger.AnswerGenesis(argument(1), argument(2), bsn.Approval{Approved: true})
	case "set-contracts":
		message = ledger.SetContracts(argument(1), number, []bsn.Contract{{Name: "Certificates", Address: "0x" + strings.Repeat("00", 20)}})
	case "register-account":
		message = ledger.RegisterAccount(argument(1), ledger.Offer{PublicKey: key.New().Public()})
	case "withdraw":
		message = ledger.WithdrawApp(argument(1), 0)
	case "revoke-project":
		message = ledger.RevokeProject(argument(1))
	default:
		return output{}, fmt.Errorf("as: no action %q", what[0])
	}
	c, err := ledger.NewClient(conn, k)
	if err != nil {
		return output{}, err
	}
	res, err := c.Write(ctx, message)
	return failed(output{stdout: fmt.Sprintln("block", res.Height)}, err)
}

// failed puts an error where a script can look for its text.
func failed(o output, err error) (output, error) {
	if err != nil {
		o.stderr += err.Error() + "\n"
	}
	return o, err
}

// contextOf is the name of the network and the URL of a city's API.
func contextOf(ts *testscript.TestScript, city string) (network, url string, err error) {
	o, err := bsnCommand(ts, []string{"context", "--json"})
	if err != nil {
		return "", "", err
	}
	var c struct {
		Network string
		Cities  map[string]struct{ API string }
	}
	if err := json.Unmarshal([]byte(o.stdout), &c); err != nil {
		return "", "", err
	}
	if c.Cities[city].API == "" {
		return "", "", fmt.Errorf("the context has no city %q", city)
	}
	return c.Network, c.Cities[city].API, nil
}
