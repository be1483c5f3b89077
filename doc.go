// Package bsn is the vocabulary of the network: the records that the ledger
// keeps, the identifiers that name them, and the few interfaces at the seams
// between the parts. It imports only the standard library.
//
// Read it in this order: name.go and address.go (how things are called and
// where they listen), identity.go, operator.go, chain.go, account.go, app.go,
// receipt.go (what the ledger knows), then framework.go, runtime.go and ledger.go (the seams).
//
// The JSON form of each record is at once what the ledger stores, what a
// listing prints with --json, and what the gateway follows.
package bsn
