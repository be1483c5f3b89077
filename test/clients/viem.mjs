// viem against a gateway. Prints JSON.
//
//   node viem.mjs read  URL ADDRESS 'function f(uint256) view returns (address)' ARGUMENT…
//   node viem.mjs write URL ADDRESS 'function f(address,string)' ARGUMENT…   signed by a new random key
import { createPublicClient, createWalletClient, defineChain, http, parseAbi } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'

const [action, url, address, signature, ...words] = process.argv.slice(2)
const text = v => JSON.stringify(v, (_, x) => typeof x === 'bigint' ? x.toString() : x)
const abi = parseAbi([signature])
const functionName = abi[0].name
const args = words.map((w, i) => abi[0].inputs[i].type.includes('int') ? BigInt(w) : w)
const transport = http(url)
const client = createPublicClient({ transport })

const actions = {
  async read () {
    return { result: await client.readContract({ address, abi, functionName, args }) }
  },
  async write () {
    const chain = defineChain({
      id: await client.getChainId(),
      name: 'chongqing',
      nativeCurrency: { name: 'none', symbol: 'NONE', decimals: 18 },
      rpcUrls: { default: { http: [url] } }
    })
    const wallet = createWalletClient({ account: privateKeyToAccount(generatePrivateKey()), chain, transport })
    const hash = await wallet.writeContract({ address, abi, functionName, args, gasPrice: 0n })
    const r = await client.waitForTransactionReceipt({ hash })
    return { hash, status: r.status, block: r.blockNumber, from: r.from, logs: r.logs.length }
  }
}

try {
  console.log(text(await actions[action]()))
} catch (e) {
  console.error(e.details ?? e.message)
  process.exit(1)
}
