// ethers v6: its usual calls, unchanged. Prints what came of them as JSON.
//
//   node ethers.mjs URL KEY BYTECODE      URL is http:// or ws://
import { Contract, ContractFactory, JsonRpcProvider, Wallet, WebSocketProvider, formatEther } from 'ethers'

const [url, key, bytecode] = process.argv.slice(2)
const abi = ['event Answered(uint256 value)', 'function answer() view returns (uint256)', 'function ask()']
const provider = url.startsWith('ws') ? new WebSocketProvider(url) : new JsonRpcProvider(url, undefined, { pollingInterval: 100 })
const wallet = new Wallet(key, provider)

const network = await provider.getNetwork()
const deployed = await new ContractFactory(abi, bytecode, wallet).deploy()
await deployed.waitForDeployment()
const contract = new Contract(await deployed.getAddress(), abi, wallet)
const head = new Promise(resolve => provider.on('block', resolve))
const event = new Promise(resolve => contract.on('Answered', value => resolve(value)))
await contract.listenerCount('Answered')
await new Promise(resolve => setTimeout(resolve, 400)) // ethers itself repeats answers for 250 ms
const sent = await contract.ask()
const receipt = await sent.wait()
const block = await provider.getBlock(receipt.blockNumber, true)
// What is asked for at the same time goes out as one batch over HTTP.
const [, balance, code, estimate, nonce, call] = await Promise.all([
  provider.getBlockNumber(), provider.getBalance(wallet.address), provider.getCode(contract.target),
  contract.ask.estimateGas(), provider.getTransactionCount(wallet.address), contract.answer()
])
const logs = await contract.queryFilter('Answered', receipt.blockNumber, 'latest')
console.log(JSON.stringify({
  chain: Number(network.chainId), full: block.prefetchedTransactions.some(t => t.hash === sent.hash), status: receipt.status,
  call: Number(call), logs: logs.length, estimate: estimate > 21000n, balance: Number(formatEther(balance)) > 9000,
  code: code.length > 2, nonce, head: await head > 0, event: Number(await event)
}))
await provider.destroy()
process.exit(0)
