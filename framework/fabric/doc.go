// Package fabric runs Hyperledger Fabric: an orderer and a peer in each city, a
// channel for each app on them, and chaincode as a service.
//
// Fabric's peer and orderer are programs of their own; all else is done here, in
// this process: certificates ([authority]), the channels' configuration ([channel]),
// what orderers and peers are told ([Orderer], [Peer]) and the life of chaincode.
// Neither Fabric's command line tools nor Docker take part.
package fabric
