// Hears of one event over WebSockets, with several tools, and continues at another
// gateway with a cursor. Prints JSON.
//
//   node stream.mjs WS-URL OTHER-WS-URL ADDRESS
//
// The contract is Certificates, which a new random key calls once all have subscribed.
import { Contract, Wallet, WebSocketProvider } from 'ethers'
import { createPublicClient, parseAbi, webSocket } from 'viem'
import { WebSocket } from 'ws'

const [url, other, address] = process.argv.slice(2)
const event = 'event Issued(uint256 indexed id, address indexed issuer, address indexed holder, string title)'

// subscribe calls each with what a subscription brings, until it is closed.
function subscribe (url, params, each, method = 'eth_subscribe') {
  const socket = new WebSocket(url)
  return new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('open', () => socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })))
    socket.on('message', text => {
      const m = JSON.parse(text)
      if (m.error) reject(new Error(m.error.message))
      m.id ? resolve(socket) : each(m.params)
    })
  })
}

async function one (url, params, method) {
  let socket
  const got = await new Promise((resolve, reject) => subscribe(url, params, resolve, method).then(s => { socket = s }, reject))
  socket.close()
  return got
}

const provider = new WebSocketProvider(url)
const contract = new Contract(address, [event, 'function issue(address,string)'], Wallet.createRandom(provider))
const byEthers = new Promise(resolve => contract.on('Issued', (id, issuer, holder, title) => resolve(title)))
await contract.listenerCount('Issued')
const viem = createPublicClient({ transport: webSocket(url) })
let unwatch
const byViem = new Promise((resolve, reject) => {
  unwatch = viem.watchContractEvent({ address, abi: parseAbi([event]), eventName: 'Issued', onLogs: logs => resolve(logs[0].args.title), onError: reject })
})
const heads = []
const headSocket = await subscribe(url, ['newHeads'], p => heads.push(p))
const logs = []
let heard
const first = new Promise(resolve => { heard = resolve })
const logSocket = await subscribe(url, ['logs', { address }], p => { logs.push(p); heard() })
while (heads.length === 0) await new Promise(resolve => setTimeout(resolve, 50))
const before = heads.at(-1).cursor

await (await contract.issue('0x00000000000000000000000000000000000000e4', 'by a stream', { gasPrice: 0 })).wait()
await first
const result = { ethers: await byEthers, viem: await byViem, cursor: typeof logs[0].cursor }

// The same from another city, from a block before the event on, and nothing of it from the event on.
const again = await one(other, ['logs', { address }, { cursor: before }])
result.same = again.result.transactionHash === logs[0].result.transactionHash && again.cursor === logs[0].cursor
const next = await one(other, ['newHeads', { cursor: before }])
result.next = Number(next.result.number) === parseInt(before, 16) + 1
const after = await one(other, ['newHeads', { cursor: logs[0].cursor }])
result.own = after.result.hash === logs[0].result.blockHash
// In Kaia's own form, too.
const kaia = await one(other, ['newHeads', { cursor: before }], 'kaia_subscribe')
result.kaia = kaia.result.hash === next.result.hash && kaia.result.blockScore === '0x1'

unwatch()
headSocket.close()
logSocket.close()
await provider.destroy()
console.log(JSON.stringify(result))
process.exit(0)
