// @grpc/grpc-js: calls of every kind through a gateway, whose key and chain an
// interceptor of the channel puts to each. Prints what came of them as JSON.
//
//   node grpc.mjs HOST:PORT KEY CHAIN
import grpc from '@grpc/grpc-js'

const [address, key, chain] = process.argv.slice(2)
const named = (options, next) => new grpc.InterceptingCall(next(options), {
  start: (metadata, listener, go) => {
    metadata.set('x-api-key', key)
    metadata.set('x-bsn-chain', chain)
    go(metadata, listener)
  }
})
const client = new grpc.Client(address, grpc.credentials.createInsecure(), { interceptors: [named] })
const raw = b => b
// Messages of the services health and testing, by hand: field 1 of HealthCheckResponse, and payloads of bytes.
const field = (number, bytes) => Buffer.concat([Buffer.from([number << 3 | 2, bytes.length]), bytes])
const payload = size => field(3, field(2, Buffer.alloc(size)))
const health = '/grpc.health.v1.Health/'
const tests = '/grpc.testing.TestService/'
const until = (call, count) => new Promise((resolve, reject) => {
  const got = []
  call.on('data', m => got.push(m) === count && resolve(got))
  call.on('error', reject)
})
const error = call => new Promise(resolve => call.on('error', e => resolve(e.code)))

const result = {}
result.unary = await new Promise((resolve, reject) => client.makeUnaryRequest(health + 'Check', raw, raw, Buffer.alloc(0), { deadline: Date.now() + 20000 },
  (e, m) => e ? reject(e) : resolve(m[1])))
const watch = client.makeServerStreamRequest(health + 'Watch', raw, raw, Buffer.alloc(0))
result.server = (await until(watch, 1))[0][1]
const cancelled = error(watch)
watch.cancel()
result.cancelled = await cancelled
result.client = await new Promise((resolve, reject) => {
  const call = client.makeClientStreamRequest(tests + 'StreamingInputCall', raw, raw, (e, m) => e ? reject(e) : resolve(m[1]))
  for (let i = 1; i <= 3; i++) call.write(field(1, field(2, Buffer.alloc(i))))
  call.end()
})
const both = client.makeBidiStreamRequest(tests + 'FullDuplexCall', raw, raw)
const echoes = until(both, 3)
for (let i = 1; i <= 3; i++) both.write(payload(i))
result.both = (await echoes).map(m => m.length)
both.end()
result.status = await error(both)
result.late = await error(client.makeServerStreamRequest(health + 'Watch', raw, raw, Buffer.alloc(0), { deadline: Date.now() + 300 }).on('data', () => {}))
result.refused = await new Promise(resolve => client.makeUnaryRequest('/no.Such/Method', raw, raw, Buffer.alloc(0), e => resolve(e.code)))
console.log(JSON.stringify(result))
client.close()
