package gateway

import (
	"net/http"
	"strings"
)

// serveBSN answers the forms of address that BSN's gateways have, beside the one that
// serveFast knows:
//
//	POST /api/{account}.{project}/{chain}/{rpc|evmrpc}         key as x-api-key
//	GET  /api/{account}.{project}/{chain}/{ws|evmws}           key as x-api-key; WebSocket
//	GET  /api/{account}.{project}/{key}/{chain}[/{ws|evmws}]   WebSocket
//	any  /api/{account}.{project}/{chain}/rest/…               key as x-api-key
func (g *Gateway) serveBSN(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimSuffix(r.PathValue("path"), "/"), "/")
	key := ""
	if looksLikeKey(parts[0]) && len(parts) > 1 {
		key, parts = parts[0], parts[1:]
	}
	chain, protocol, more := parts[0], "", len(parts) > 2
	if len(parts) > 1 {
		protocol = parts[1]
	} else if key != "" {
		protocol = protocolWS
	}
	r.SetPathValue("chain", chain)
	r.SetPathValue("key", key)
	var next http.HandlerFunc
	switch protocol {
	case protocolREST:
		next, more = g.serveREST, false
	case protocolRPC, protocolEVMRPC:
		if r.Method == http.MethodPost {
			next = g.serveRPC
		}
	case protocolWS, protocolEVMWS:
		if r.Method == http.MethodGet {
			next = g.serveSocket
		}
	}
	if next == nil || more {
		text := "nothing is here: POST …/rpc or …/evmrpc is JSON-RPC, GET …/ws or …/evmws a WebSocket, and nothing lies below them"
		g.reply(w, nil, refuse(outcomeRefused, codeRequest, "%s", text).with(http.StatusNotFound))
		return
	}
	g.here(next)(w, r)
}
