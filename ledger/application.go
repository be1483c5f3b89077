// Package ledger is the network's registry: a Cosmos SDK application on
// CometBFT, embedded in every city's daemon, with one small module a folder.
// Only this folder knows the SDK; the rest of the system uses Node (here) or a
// city's API as a bsn.Ledger, and Client to write.
package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"cosmossdk.io/log/v2"
	abci "github.com/cometbft/cometbft/abci/types"
	dbm "github.com/cosmos/cosmos-db"
	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/cosmos/cosmos-sdk/client"
	"github.com/cosmos/cosmos-sdk/codec"
	addresscodec "github.com/cosmos/cosmos-sdk/codec/address"
	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	"github.com/cosmos/cosmos-sdk/runtime"
	"github.com/cosmos/cosmos-sdk/std"
	pruningtypes "github.com/cosmos/cosmos-sdk/store/v2/pruning/types"
	storetypes "github.com/cosmos/cosmos-sdk/store/v2/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	"github.com/cosmos/cosmos-sdk/types/tx/signing"
	"github.com/cosmos/cosmos-sdk/x/auth"
	"github.com/cosmos/cosmos-sdk/x/auth/ante"
	authkeeper "github.com/cosmos/cosmos-sdk/x/auth/keeper"
	authtx "github.com/cosmos/cosmos-sdk/x/auth/tx"
	authtypes "github.com/cosmos/cosmos-sdk/x/auth/types"
	"github.com/cosmos/cosmos-sdk/x/consensus"
	consensuskeeper "github.com/cosmos/cosmos-sdk/x/consensus/keeper"
	consensustypes "github.com/cosmos/cosmos-sdk/x/consensus/types"
	txsigning "github.com/cosmos/cosmos-sdk/x/tx/signing"
	"github.com/cosmos/gogoproto/proto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/account"
	"github.com/openbsn/bsn/ledger/app"
	"github.com/openbsn/bsn/ledger/chain"
	"github.com/openbsn/bsn/ledger/govern"
	"github.com/openbsn/bsn/ledger/identity"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/parameter"
	"github.com/openbsn/bsn/ledger/receipt"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/upgrade"
	"github.com/openbsn/bsn/ledger/writer"
)

func init() {
	// The SDK keeps the address prefix in a global of the process.
	sdk.GetConfig().SetBech32PrefixForAccount(key.Prefix, key.Prefix+"pub")
}

// maxTimeout is how far ahead of ledger time a transaction may expire: as long
// as the ledger remembers it against replay.
const maxTimeout = 10 * time.Minute

// authority signs what the operators' vote decided. No key belongs to it.
var authority = sdk.AccAddress(authtypes.NewModuleAddress(govern.StoreKey))

// coder is what encoding, decoding and signing transactions takes.
type coder struct {
	registry cdctypes.InterfaceRegistry
	codec    codec.Codec
	tx       client.TxConfig
}

// newCoder knows the messages of a protocol version.
func newCoder(version uint64) (coder, error) {
	registry, err := cdctypes.NewInterfaceRegistryWithOptions(cdctypes.InterfaceRegistryOptions{
		ProtoFiles: proto.HybridResolver,
		SigningOptions: txsigning.Options{
			AddressCodec:          addresscodec.NewBech32Codec(key.Prefix),
			ValidatorAddressCodec: addresscodec.NewBech32Codec(key.Prefix + "valoper"),
		},
	})
	if err != nil {
		return coder{}, fmt.Errorf("make codec: %w", err)
	}
	std.RegisterInterfaces(registry)
	modules := []interface {
		RegisterInterfaces(cdctypes.InterfaceRegistry)
	}{
		parameter.NewModule(nil), operator.NewModule(nil, version), govern.NewModule(nil), chain.NewModule(nil), account.NewModule(nil, version), app.NewModule(nil), identity.NewModule(nil), upgrade.NewModule(nil),
	}
	if version >= receipt.Version {
		modules = append(modules, receipt.NewModule(nil))
	}
	for _, m := range modules {
		m.RegisterInterfaces(registry) // who writes reads what acts would do
	}
	c := codec.NewProtoCodec(registry)
	// What is signed are the transaction's own bytes: there is no amino form.
	modes := []signing.SignMode{signing.SignMode_SIGN_MODE_DIRECT}
	return coder{registry, c, authtx.NewTxConfig(c, modes)}, nil
}

// application is the state machine.
type application struct {
	*baseapp.BaseApp
	coder
	auth      authkeeper.AccountKeeper
	manager   *module.Manager
	tables    map[bsn.Kind]record.Reader
	writers   *writer.Keeper
	operators *operator.Keeper
	stores    map[string]*storetypes.KVStoreKey

	// version is the protocol version whose rules it follows, of those it knows.
	version  uint64
	known    []protocol
	upgrades *upgrade.Keeper
}

// rules say which protocol version an application is to follow.
type rules struct {
	version uint64
	state   uint64 // the version of the state that is there
	known   []protocol
}

// newApplication wires the modules by hand, so that one page shows them all.
func newApplication(db dbm.DB, network string, r rules, options ...func(*baseapp.BaseApp)) (*application, error) {
	c, err := newCoder(r.version)
	if err != nil {
		return nil, err
	}
	base := baseapp.NewBaseApp("bsn", log.NewNopLogger(), db, c.tx.TxDecoder(), append([]func(*baseapp.BaseApp){
		baseapp.SetChainID(network),
		baseapp.SetPruning(pruningtypes.NewCustomPruningOptions(100, 10)),
		baseapp.SetIAVLCacheSize(10_000),
	}, options...)...)
	base.SetInterfaceRegistry(c.registry)
	base.SetTxEncoder(c.tx.TxEncoder())

	keys := storetypes.NewKVStoreKeys(authtypes.StoreKey, consensustypes.StoreKey,
		parameter.StoreKey, writer.StoreKey, operator.StoreKey, govern.StoreKey, chain.StoreKey, account.StoreKey, app.StoreKey, identity.StoreKey, upgrade.StoreKey)
	for _, name := range storesAfter(r.known, 0, r.version) {
		keys[name] = storetypes.NewKVStoreKey(name)
	}
	store := func(name string) storeService { return runtime.NewKVStoreService(keys[name]) }
	by := authority.String()

	consensusKeeper := consensuskeeper.NewKeeper(c.codec, store(consensustypes.StoreKey), by, runtime.EventService{})
	base.SetParamStore(consensusKeeper.ParamsStore)
	authKeeper := authkeeper.NewAccountKeeper(c.codec, store(authtypes.StoreKey), authtypes.ProtoBaseAccount,
		map[string][]string{}, addresscodec.NewBech32Codec(key.Prefix), key.Prefix, by, authkeeper.WithUnorderedTransactions(true))
	upgrades := upgrade.NewKeeper(store(upgrade.StoreKey), by)
	parameters := parameter.NewKeeper(store(parameter.StoreKey), by, r.version)
	writers := writer.NewKeeper(store(writer.StoreKey), authKeeper, parameters)
	if r.version >= 2 {
		writers.SweepUse(store(writer.UseKey))
	}
	operators := operator.NewKeeper(store(operator.StoreKey), parameters, writers, by)
	proposals := govern.NewKeeper(store(govern.StoreKey), c.codec, base.MsgServiceRouter(), parameters, operators, writers, authority)
	chains := chain.NewKeeper(store(chain.StoreKey), operators, by)
	accounts := account.NewKeeper(store(account.StoreKey), writers, operators, by)
	apps := app.NewKeeper(store(app.StoreKey), writers, operators, chains, accounts)
	identities := identity.NewKeeper(store(identity.StoreKey), c.codec, base.MsgServiceRouter(), writers, operators, accounts, by)

	a := &application{BaseApp: base, coder: c, auth: authKeeper, writers: writers, operators: operators, stores: keys, tables: map[bsn.Kind]record.Reader{}, version: r.version, known: r.known, upgrades: upgrades}
	for _, t := range []record.Reader{
		operators.Operators, operators.Cities, proposals.Proposals, chains.Chains,
		accounts.Portals, accounts.Accounts, accounts.Projects, apps.Apps, identities.Acts, parameters.Records, upgrades.Records,
	} {
		a.tables[t.Kind()] = t
	}

	//lint:ignore SA1019 the module manager takes nothing else yet
	modules := []module.AppModule{
		auth.NewAppModule(c.codec, authKeeper, nil, nil),
		consensus.NewAppModule(c.codec, consensusKeeper),
		parameter.NewModule(parameters), writer.NewModule(writers), operator.NewModule(operators, r.version), govern.NewModule(proposals),
		chain.NewModule(chains), account.NewModule(accounts, r.version), app.NewModule(apps), identity.NewModule(identities), upgrade.NewModule(upgrades),
	}
	order := []string{
		authtypes.ModuleName, consensustypes.ModuleName, parameter.StoreKey, writer.StoreKey, operator.StoreKey,
		chain.StoreKey, govern.StoreKey, account.StoreKey, app.StoreKey, identity.StoreKey, upgrade.StoreKey,
	}
	// Until protocol version 2 there are no receipts.
	a.tables[bsn.KindReceipt], a.tables[bsn.KindUsage] = record.None(bsn.KindReceipt), record.None(bsn.KindUsage)
	if r.version >= receipt.Version {
		receipts := receipt.NewKeeper(store(receipt.StoreKey), operators, accounts)
		a.tables[bsn.KindReceipt], a.tables[bsn.KindUsage] = receipts.Receipts, receipts.Usage
		modules, order = append(modules, receipt.NewModule(receipts)), append(order, receipt.StoreKey)
	}
	a.manager = module.NewManager(modules...)
	a.manager.SetOrderInitGenesis(order...)
	a.manager.SetOrderExportGenesis(order...)
	a.manager.SetOrderPreBlockers(authtypes.ModuleName) // forgets expired transactions
	a.manager.SetOrderBeginBlockers(order...)
	// Proposals are decided first: what they do to the operators' power is handed on
	// in the same block.
	a.manager.SetOrderEndBlockers(append([]string{govern.StoreKey}, slices.DeleteFunc(slices.Clone(order), func(name string) bool { return name == govern.StoreKey })...)...)
	for _, m := range a.manager.Modules {
		if r, ok := m.(interface {
			RegisterInterfaces(cdctypes.InterfaceRegistry)
		}); ok {
			r.RegisterInterfaces(c.registry)
		}
	}
	if err := a.manager.RegisterServices(module.NewConfigurator(c.codec, base.MsgServiceRouter(), base.GRPCQueryRouter())); err != nil {
		return nil, fmt.Errorf("register services: %w", err)
	}

	base.MountKVStores(keys)
	base.SetInitChainer(a.initChain)
	base.SetPreBlocker(func(ctx sdk.Context, _ *abci.RequestFinalizeBlock) (*sdk.ResponsePreBlock, error) {
		if err := a.advance(ctx); err != nil {
			return nil, err
		}
		return a.manager.PreBlock(ctx)
	})
	base.SetBeginBlocker(func(ctx sdk.Context) (sdk.BeginBlock, error) { return a.manager.BeginBlock(ctx) })
	base.SetEndBlocker(func(ctx sdk.Context) (sdk.EndBlock, error) { return a.manager.EndBlock(ctx) })
	base.SetAnteHandler(sdk.ChainAnteDecorators(
		ante.NewValidateBasicDecorator(), // whose parts are all there: what follows relies on it
		writer.Admit{Keeper: writers},
		ante.NewExtensionOptionsDecorator(nil),
		ante.NewTxTimeoutHeightDecorator(),
		ante.NewValidateMemoDecorator(authKeeper),
		ante.NewSetPubKeyDecorator(authKeeper),
		ante.NewValidateSigCountDecorator(authKeeper),
		ante.NewSigVerificationDecorator(authKeeper, c.tx.SignModeHandler(), ante.WithMaxUnorderedTxTimeoutDuration(maxTimeout)),
		writer.Charge{Keeper: writers},
		ante.NewIncrementSequenceDecorator(authKeeper),
	))
	base.SetPostHandler(sdk.ChainPostDecorators(writer.Settle{Keeper: writers}))
	if err := a.load(r.state); err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	return a, nil
}

func (a *application) initChain(ctx sdk.Context, req *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	var state map[string]json.RawMessage
	if err := json.Unmarshal(req.AppStateBytes, &state); err != nil {
		return nil, fmt.Errorf("decode genesis: %w", err)
	}
	return a.manager.InitGenesis(ctx, a.codec, state)
}

// committed is a context to read the newest committed state. The header's time is
// not to be used: after a restart it is unknown until the next block.
func (a *application) committed() (sdk.Context, error) {
	return a.CreateQueryContextWithCheckHeader(0, false, false)
}
