// ethers v6 against a gateway. Prints JSON.
//
//   node ethers.mjs read  URL ADDRESS 'function f(uint256) view returns (address)' ARGUMENT…
//   node ethers.mjs write URL ADDRESS 'function f(address,string)' ARGUMENT…   signed by a new random key
//   node ethers.mjs deploy URL BYTECODE [KEY]   a contract creation, by default signed by a new random key
//   node ethers.mjs heads WS-URL COUNT          subscribes to newHeads until so many have come
//   node ethers.mjs batch URL                   several calls at once, which ethers puts into one request
import { Contract, ContractFactory, FetchRequest, JsonRpcProvider, Wallet, WebSocketProvider } from 'ethers'

const [action, url, ...rest] = process.argv.slice(2)
const text = v => JSON.stringify(v, (_, x) => typeof x === 'bigint' ? x.toString() : x)

async function over (provider, f) {
  try {
    return await f(provider)
  } finally {
    await provider.destroy()
  }
}

const actions = {
  async read (address, abi, ...args) {
    return over(new JsonRpcProvider(url), async p => {
      const result = await new Contract(address, [abi], p).getFunction(abi.match(/function (\w+)/)[1])(...args)
      return { result }
    })
  },
  async write (address, abi, ...args) {
    return over(new JsonRpcProvider(url), async p => {
      const wallet = Wallet.createRandom(p)
      const f = new Contract(address, [abi], wallet).getFunction(abi.match(/function (\w+)/)[1])
      const sent = await f(...args, { gasPrice: 0 })
      const receipt = await sent.wait()
      return { hash: sent.hash, status: receipt.status, block: receipt.blockNumber, from: receipt.from, logs: receipt.logs.length }
    })
  },
  async deploy (bytecode, key) {
    return over(new JsonRpcProvider(url), async p => {
      const wallet = key ? new Wallet(key, p) : Wallet.createRandom(p)
      const contract = await new ContractFactory([], bytecode, wallet).deploy({ gasPrice: 0, gasLimit: 1000000 })
      await contract.waitForDeployment()
      return { address: await contract.getAddress() }
    })
  },
  async heads (count) {
    return over(new WebSocketProvider(url), async p => {
      const blocks = []
      await new Promise((resolve, reject) => {
        p.on('block', n => blocks.push(n) >= Number(count) && resolve())
        p.websocket.onerror = reject
      })
      return { blocks, consecutive: blocks.every((n, i) => i === 0 || n === blocks[i - 1] + 1) }
    })
  },
  async batch () {
    const request = new FetchRequest(url)
    let requests = 0
    let calls = 0
    request.preflightFunc = async r => {
      requests++
      calls += [].concat(JSON.parse(new TextDecoder().decode(r.body))).length
      return r
    }
    return over(new JsonRpcProvider(request, 1901, { staticNetwork: true }), async p => {
      const [block, balance, code] = await Promise.all([
        p.getBlockNumber(), p.getBalance('0x00000000000000000000000000000000000000ab'), p.getCode('0x00000000000000000000000000000000000000ab')
      ])
      return { block, balance, code, requests, calls }
    })
  }
}

try {
  console.log(text(await actions[action](...rest)))
} catch (e) {
  console.error(e.error?.message ?? e.info?.error?.message ?? e.info?.responseBody ?? e.message)
  process.exit(1)
}
