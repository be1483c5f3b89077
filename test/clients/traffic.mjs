// Sends transactions one after the other, each with the next nonce of one key,
// and says in the end which of those that the gateway acknowledged are on the
// chain. A transaction that is not acknowledged is sent again, the very same.
//
//   node traffic.mjs URL KEY COUNT
import { JsonRpcProvider, Wallet } from 'ethers'

const [url, key, count] = process.argv.slice(2)
const provider = new JsonRpcProvider(url, 1901, { staticNetwork: true, batchMaxCount: 1 })
const wallet = new Wallet(key, provider)
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

async function untilDone (f, what) {
  for (let tries = 0; ; tries++) {
    try {
      return await f()
    } catch (e) {
      errors.push(`${what}: ${e.error?.message ?? e.info?.error?.message ?? e.message}`)
      if (tries === 100) throw e
      await pause(100)
    }
  }
}

const errors = []
const acknowledged = []
for (let nonce = 0; nonce < Number(count); nonce++) {
  const raw = await wallet.signTransaction({ type: 0, nonce, to: wallet.address, value: 0, gasPrice: 0, gasLimit: 21000, chainId: 1901 })
  acknowledged.push(await untilDone(() => provider.send('eth_sendRawTransaction', [raw]), 'send'))
  await pause(100) // so that the traffic lasts
}
const missing = []
for (const hash of acknowledged) {
  let receipt = null
  for (let tries = 0; tries < 300 && !receipt; tries++) {
    receipt = await untilDone(() => provider.send('eth_getTransactionReceipt', [hash]), 'receipt')
    if (!receipt) await pause(200)
  }
  if (receipt?.status !== '0x1') missing.push(hash)
}
console.log(JSON.stringify({ acknowledged: acknowledged.length, different: new Set(acknowledged).size, missing, errors }))
provider.destroy()
