// web3.js v4: its usual calls, unchanged. Prints what came of them as JSON.
//
//   node web3.mjs URL KEY BYTECODE      URL is http:// or ws://
import { Web3 } from 'web3'

const [url, key, bytecode] = process.argv.slice(2)
const ws = url.startsWith('ws')
const abi = [
  { type: 'event', name: 'Answered', anonymous: false, inputs: [{ name: 'value', type: 'uint256', indexed: false }] },
  { type: 'function', name: 'answer', stateMutability: 'view', inputs: [], outputs: [{ name: '', type: 'uint256' }] },
  { type: 'function', name: 'ask', stateMutability: 'nonpayable', inputs: [], outputs: [] }
]
const web3 = new Web3(url)
const account = web3.eth.accounts.wallet.add(key)[0]
const from = account.address

const contract = await new web3.eth.Contract(abi).deploy({ data: bytecode }).send({ from, gas: '300000' })
const address = contract.options.address
let head
let event
if (ws) { // over HTTP it has no subscriptions
  const heads = await web3.eth.subscribe('newHeads')
  head = new Promise(resolve => heads.on('data', resolve))
  const logs = await web3.eth.subscribe('logs', { address })
  event = new Promise(resolve => logs.on('data', resolve))
}
const receipt = await new web3.eth.Contract(abi, address).methods.ask().send({ from, gas: '100000' })
const block = await web3.eth.getBlock(receipt.blockNumber, true)
const batch = new web3.BatchRequest() // over a WebSocket, too
const balance = batch.add({ jsonrpc: '2.0', id: 'a "name"', method: 'eth_getBalance', params: [from, 'latest'] })
const code = batch.add({ jsonrpc: '2.0', id: 12345678901, method: 'eth_getCode', params: [address, 'latest'] })
await batch.execute()
const logs = await contract.getPastEvents('Answered', { fromBlock: receipt.blockNumber, toBlock: 'latest' })
const number = await web3.eth.getBlockNumber()
console.log(JSON.stringify({
  chain: Number(await web3.eth.getChainId()), full: block.transactions.some(t => t.hash === receipt.transactionHash), status: Number(receipt.status),
  call: Number(await contract.methods.answer().call()), logs: logs.length, estimate: await contract.methods.ask().estimateGas({ from }) > 21000n,
  balance: BigInt(await balance) > 9000n * 10n ** 18n, code: (await code).length > 2, nonce: Number(await web3.eth.getTransactionCount(from)),
  head: ws ? BigInt((await head).number) <= number : true, event: ws ? Number((await event).data) : Number(logs[0].returnValues.value)
}))
process.exit(0)
