package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hyperledger/fabric-chaincode-go/v2/shim"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer"
)

// asset is one entry of the register. Its JSON is what is stored: the members'
// peers must agree on it byte for byte.
type asset struct {
	ID    string `json:"id"`
	Color string `json:"color"`
	Size  int    `json:"size"`
	Owner string `json:"owner"`
	Value int    `json:"value"`
}

// change is one step in the history of an asset, newest first.
type change struct {
	Transaction string    `json:"transaction"`
	Time        time.Time `json:"time"`
	Deleted     bool      `json:"deleted"`
	Asset       *asset    `json:"asset,omitempty"`
}

// objectType begins the keys of assets, so that listing them meets nothing else.
const objectType = "asset"

// register is the chaincode.
type register struct{}

// Init is not used: the register begins empty.
func (register) Init(shim.ChaincodeStubInterface) *peer.Response { return shim.Success(nil) }

// Invoke calls a function by its name. What a function answers is JSON.
func (register) Invoke(stub shim.ChaincodeStubInterface) *peer.Response {
	name, args := stub.GetFunctionAndParameters()
	f, ok := functions[name]
	if !ok {
		return shim.Error(fmt.Sprintf("there is no function %.64q", name))
	}
	if len(args) != f.args {
		return shim.Error(fmt.Sprintf("%s takes %d arguments, not %d", name, f.args, len(args)))
	}
	answer, err := f.call(stub, args)
	if err != nil {
		return shim.Error(err.Error())
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return shim.Error(err.Error())
	}
	return shim.Success(text)
}

// functions by name, with the number of their arguments.
var functions = map[string]struct {
	args int
	call func(shim.ChaincodeStubInterface, []string) (any, error)
}{
	"Create":   {5, create},   // id, color, size, owner, value
	"Read":     {1, read},     // id
	"Exists":   {1, exists},   // id
	"Update":   {5, update},   // id, color, size, owner, value
	"Delete":   {1, remove},   // id
	"Transfer": {2, transfer}, // id, new owner; answers who the old one was
	"List":     {0, list},
	"History":  {1, history}, // id
}

func create(stub shim.ChaincodeStubInterface, args []string) (any, error) {
	a, err := parse(args)
	if err != nil {
		return nil, err
	}
	old, err := find(stub, a.ID)
	if err != nil {
		return nil, err
	}
	if old != nil {
		return nil, fmt.Errorf("asset %s exists already", a.ID)
	}
	return a, save(stub, "Create", a)
}

func read(stub shim.ChaincodeStubInterface, args []string) (any, error) { return get(stub, args[0]) }

func exists(stub shim.ChaincodeStubInterface, args []string) (any, error) {
	a, err := find(stub, args[0])
	return a != nil, err
}

func update(stub shim.ChaincodeStubInterface, args []string) (any, error) {
	a, err := parse(args)
	if err != nil {
		return nil, err
	}
	if _, err := get(stub, a.ID); err != nil {
		return nil, err
	}
	return a, save(stub, "Update", a)
}

func remove(stub shim.ChaincodeStubInterface, args []string) (any, error) {
	a, err := get(stub, args[0])
	if err != nil {
		return nil, err
	}
	key, err := stub.CreateCompositeKey(objectType, []string{a.ID})
	if err != nil {
		return nil, err
	}
	return a, errors.Join(stub.DelState(key), tell(stub, "Delete", a))
}

func transfer(stub shim.ChaincodeStubInterface, args []string) (any, error) {
	if args[1] == "" {
		return nil, errors.New("the new owner has no name")
	}
	a, err := get(stub, args[0])
	if err != nil {
		return nil, err
	}
	old := a.Owner
	a.Owner = args[1]
	return old, save(stub, "Transfer", a)
}

func list(stub shim.ChaincodeStubInterface, _ []string) (any, error) {
	it, err := stub.GetStateByPartialCompositeKey(objectType, nil)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	all := []asset{}
	for it.HasNext() {
		kv, err := it.Next()
		if err != nil {
			return nil, err
		}
		var a asset
		if err := json.Unmarshal(kv.GetValue(), &a); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func history(stub shim.ChaincodeStubInterface, args []string) (any, error) {
	key, err := stub.CreateCompositeKey(objectType, []string{args[0]})
	if err != nil {
		return nil, err
	}
	it, err := stub.GetHistoryForKey(key)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	all := []change{}
	for it.HasNext() {
		m, err := it.Next()
		if err != nil {
			return nil, err
		}
		c := change{Transaction: m.GetTxId(), Time: m.GetTimestamp().AsTime(), Deleted: m.GetIsDelete()}
		if !c.Deleted {
			c.Asset = new(asset)
			if err := json.Unmarshal(m.GetValue(), c.Asset); err != nil {
				return nil, err
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// parse reads the five arguments of an asset.
func parse(args []string) (*asset, error) {
	size, err := strconv.Atoi(args[2])
	if err != nil || size < 0 {
		return nil, fmt.Errorf("size %.20q is no number from 0", args[2])
	}
	value, err := strconv.Atoi(args[4])
	if err != nil || value < 0 {
		return nil, fmt.Errorf("value %.20q is no number from 0", args[4])
	}
	if args[0] == "" || args[3] == "" {
		return nil, errors.New("an asset has an id and an owner")
	}
	return &asset{ID: args[0], Color: args[1], Size: size, Owner: args[3], Value: value}, nil
}

// find returns nil if there is no such asset; get says so.
func find(stub shim.ChaincodeStubInterface, id string) (*asset, error) {
	key, err := stub.CreateCompositeKey(objectType, []string{id})
	if err != nil {
		return nil, err
	}
	text, err := stub.GetState(key)
	if err != nil || text == nil {
		return nil, err
	}
	a := new(asset)
	return a, json.Unmarshal(text, a)
}

func get(stub shim.ChaincodeStubInterface, id string) (*asset, error) {
	a, err := find(stub, id)
	if err == nil && a == nil {
		err = fmt.Errorf("there is no asset %.64q", id)
	}
	return a, err
}

// save stores an asset and tells who listens what was done to it.
func save(stub shim.ChaincodeStubInterface, event string, a *asset) error {
	key, err := stub.CreateCompositeKey(objectType, []string{a.ID})
	if err != nil {
		return err
	}
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return errors.Join(stub.PutState(key, text), tell(stub, event, a))
}

func tell(stub shim.ChaincodeStubInterface, event string, a *asset) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return stub.SetEvent(event, text)
}
