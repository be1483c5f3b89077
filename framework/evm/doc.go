// Package evm holds what all frameworks of the EVM family share: packages of
// compiled contracts, values in and out of contracts, raw transactions, the
// standard method table, and the publisher's side of deploying and calling.
//
// A reader starts with package.go (what is published), then build.go and solc.go
// (where it comes from), values.go and format.go (how arguments and results are
// written), query.go and verify.go (what a city does with a node), and last
// deploy.go and invoke.go (what the holder of an account's key does).
package evm
