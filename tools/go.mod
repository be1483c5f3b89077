// Developer tools, pinned. They are never part of the bsn binary.
module github.com/openbsn/bsn/tools

go 1.26.5

tool (
	connectrpc.com/connect/cmd/protoc-gen-connect-go
	github.com/cosmos/gogoproto/protoc-gen-gocosmos
	github.com/openbsn/bsn/tools/licences
	google.golang.org/protobuf/cmd/protoc-gen-go
	honnef.co/go/tools/cmd/staticcheck
	mvdan.cc/gofumpt
)

require (
	github.com/google/licensecheck v0.3.1
	go.yaml.in/yaml/v3 v3.0.5
)

require (
	connectrpc.com/connect v1.21.1 // indirect
	github.com/BurntSushi/toml v1.4.1-0.20240526193622-a339e1f7089c // indirect
	github.com/cosmos/gogoproto v1.7.2 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	golang.org/x/exp/typeparams v0.0.0-20231108232855-2478ac86f678 // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/sync v0.23.0 // indirect
	golang.org/x/tools v0.51.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	honnef.co/go/tools v0.8.2 // indirect
	mvdan.cc/gofumpt v0.12.0 // indirect
)
