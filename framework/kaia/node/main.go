// SPDX-License-Identifier: GPL-3.0-or-later
//
// kaia-node: a Kaia node for a city.
// Copyright (C) the bsn authors
//
// This program is free software: you can redistribute it and/or modify it under
// the terms of the GNU General Public License as published by the Free Software
// Foundation, either version 3 of the License, or (at your option) any later
// version. It comes WITHOUT ANY WARRANTY; see the file LICENSE beside this one.

// Command kaia-node runs a Kaia consensus or endpoint node. It differs from
// Kaia's own kcn and ken in three ways: its peer-to-peer port is bound to one
// address instead of all, the length of a consensus round is a flag, and it
// dials its peers only when it is able to judge them.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/kaiachain/kaia/cmd/utils"
	"github.com/kaiachain/kaia/cmd/utils/nodecmd"
	"github.com/kaiachain/kaia/consensus/istanbul"
	"github.com/kaiachain/kaia/datasync/downloader"
	"github.com/kaiachain/kaia/networks/p2p"
	"github.com/kaiachain/kaia/networks/p2p/discover"
	"github.com/kaiachain/kaia/node"
	"github.com/kaiachain/kaia/node/cn"
	"github.com/urfave/cli/v2"
)

// maxPeersFile bounds the file of peers, in bytes; a line has about 180.
const maxPeersFile = 1 << 20

var (
	listenFlag = &cli.StringFlag{
		Name:  "p2p.addr",
		Usage: "the one `HOST:PORT` at which to listen for peers",
	}
	peersFlag = &cli.StringFlag{
		Name:  "p2p.peers",
		Usage: "`FILE` with a kni:// address in each line; read once, at the start",
	}
	roleFlag = &cli.StringFlag{
		Name:  "as",
		Usage: "cn to take part in consensus, or en to follow the chain only",
		Value: "cn",
	}
	roundFlag = &cli.Uint64Flag{
		Name:  "istanbul.timeout",
		Usage: "length of the first round of consensus in `MILLISECONDS`",
		Value: istanbul.DefaultConfig.Timeout,
	}
)

func main() {
	// The databases, the logs and the IPC socket are the owner's alone from the
	// moment that they exist.
	syscall.Umask(0o077)

	app := utils.NewApp("", "a Kaia node for a city")
	app.HideVersion = true
	app.Commands = []*cli.Command{nodecmd.InitCommand}
	app.Flags = append(utils.KcnAppFlags(), listenFlag, peersFlag, roleFlag, roundFlag)
	app.Before = before
	app.Action = run
	if err := app.Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "kaia-node:", err)
		os.Exit(1)
	}
}

// before puts the flags where Kaia looks for their values: it reads these three
// from package variables when it makes its configuration.
func before(ctx *cli.Context) error {
	if ctx.IsSet(utils.ListenPortFlag.Name) || ctx.Bool(utils.MultiChannelUseFlag.Name) {
		return fmt.Errorf("--%s and --%s listen on all addresses; use --%s",
			utils.ListenPortFlag.Name, utils.MultiChannelUseFlag.Name, listenFlag.Name)
	}
	switch role := ctx.String(roleFlag.Name); role {
	case "cn", "en":
		utils.NodeTypeFlag.Value = role
	default:
		return fmt.Errorf("--%s %q: must be cn or en", roleFlag.Name, role)
	}
	node.DefaultConfig.P2P.ListenAddr = ctx.String(listenFlag.Name)
	istanbul.DefaultConfig.Timeout = ctx.Uint64(roundFlag.Name)
	return nodecmd.BeforeRunNode(ctx)
}

// run starts the node and dials its peers last. A consensus node refuses every
// peer that it meets before StartMining, even those that it dialled itself, and
// does not dial them again for 30 s.
func run(ctx *cli.Context) error {
	if !ctx.IsSet(listenFlag.Name) {
		return fmt.Errorf("--%s is missing", listenFlag.Name)
	}
	peers, err := readPeers(ctx.String(peersFlag.Name))
	if err != nil {
		return err
	}
	stack := nodecmd.MakeFullNode(ctx)
	utils.StartNode(stack)
	var service *cn.CN
	if err := stack.Service(&service); err != nil {
		return fmt.Errorf("find the chain service: %w", err)
	}
	if err := service.StartMining(false); err != nil {
		return fmt.Errorf("start consensus: %w", err)
	}
	// Kaia stops consensus while it fetches the blocks that it missed, the first
	// time only, and then drops each peer that sends it a message of consensus.
	// Told that the first time is over, it keeps them and is level seconds earlier.
	if err := stack.EventMux().Post(downloader.DoneEvent{}); err != nil {
		return fmt.Errorf("start consensus: %w", err)
	}
	go keep(stack.Server(), peers)
	stack.Wait()
	return nil
}

// A lost peer is dialled again after a second, then after ever longer.
const (
	firstRedial = time.Second
	lastRedial  = 30 * time.Second
)

// keep dials the peers and dials those again that are lost. Kaia does so too, but
// not within 30 s of the last time, and two nodes that dial each other at the same
// moment may both refuse.
func keep(server p2p.Server, peers []*discover.Node) {
	type attempt struct {
		at   time.Time     // of the next dial
		wait time.Duration // after that one
	}
	attempts := make(map[discover.NodeID]*attempt, len(peers))
	for _, p := range peers {
		attempts[p.ID] = &attempt{wait: firstRedial}
	}
	for now := time.Now(); ; now = <-time.After(firstRedial / 4) {
		connected := make(map[discover.NodeID]bool)
		for _, p := range server.Peers() {
			connected[p.ID()] = true
		}
		for _, p := range peers {
			switch a := attempts[p.ID]; {
			case connected[p.ID]:
				a.at, a.wait = now.Add(firstRedial+rand.N(firstRedial)), firstRedial
			case now.After(a.at):
				server.RemovePeer(p) // forgets when it was dialled last
				server.AddPeer(p)
				a.at, a.wait = now.Add(a.wait), min(2*a.wait, lastRedial)
			}
		}
	}
}

// readPeers reads a file of kni:// addresses. No name means no peers.
func readPeers(name string) ([]*discover.Node, error) {
	if name == "" {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read peers: %w", err)
	}
	if info.Size() > maxPeersFile {
		return nil, fmt.Errorf("read peers: %s has more than %d bytes", name, maxPeersFile)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read peers: %w", err)
	}
	var peers []*discover.Node
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		peer, err := discover.ParseNode(line)
		if err != nil {
			return nil, fmt.Errorf("read peers: %s line %d: %w", name, i+1, err)
		}
		peers = append(peers, peer)
	}
	return peers, nil
}
