// viem: its usual calls, unchanged. Prints what came of them as JSON.
//
//   node viem.mjs URL KEY BYTECODE      URL is http:// or ws://
import { createPublicClient, createWalletClient, http, parseAbi, webSocket } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { foundry } from 'viem/chains'

const [url, key, bytecode] = process.argv.slice(2)
const ws = url.startsWith('ws')
const abi = parseAbi(['event Answered(uint256 value)', 'function answer() view returns (uint256)', 'function ask()'])
const transport = ws ? webSocket(url) : http(url, { batch: true })
const client = createPublicClient({ transport, chain: foundry, pollingInterval: 100 })
const account = privateKeyToAccount(key)
const wallet = createWalletClient({ account, chain: foundry, transport })

const made = await wallet.deployContract({ abi, bytecode })
const address = (await client.waitForTransactionReceipt({ hash: made })).contractAddress
let ends = []
const head = new Promise((resolve, reject) => ends.push(client.watchBlocks({ onBlock: resolve, onError: reject })))
const event = new Promise((resolve, reject) => ends.push(client.watchContractEvent({ address, abi, eventName: 'Answered', onLogs: l => resolve(l[0].args.value), onError: reject })))
await new Promise(resolve => setTimeout(resolve, ws ? 200 : 400))
const hash = await wallet.writeContract({ address, abi, functionName: 'ask' })
const receipt = await client.waitForTransactionReceipt({ hash })
const block = await client.getBlock({ blockNumber: receipt.blockNumber, includeTransactions: true })
const [chain, balance, code, estimate, nonce, call] = await Promise.all([
  client.getChainId(), client.getBalance({ address: account.address }), client.getCode({ address }),
  client.estimateContractGas({ account, address, abi, functionName: 'ask' }), client.getTransactionCount({ address: account.address }),
  client.readContract({ address, abi, functionName: 'answer' })
])
const logs = await client.getContractEvents({ address, abi, fromBlock: receipt.blockNumber })
console.log(JSON.stringify({
  chain, full: block.transactions.some(t => t.hash === hash), status: receipt.status === 'success' ? 1 : 0, call: Number(call), logs: logs.length,
  estimate: estimate > 21000n, balance: balance > 9000n * 10n ** 18n, code: code.length > 2, nonce,
  head: (await head).number <= await client.getBlockNumber(), event: Number(await event)
}))
ends.forEach(end => end())
process.exit(0)
