// One JSON-RPC call over a WebSocket. Prints the answer.
//
//   node socket.mjs WS-URL METHOD [PARAMS]
//
// Refused connections print {"refused":"…"}.
import { WebSocket } from 'ws'

const [url, method, params = '[]'] = process.argv.slice(2)
const socket = new WebSocket(url)
socket.on('error', e => {
  console.log(JSON.stringify({ refused: e.message }))
  process.exit(0)
})
socket.on('open', () => socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: JSON.parse(params) })))
socket.on('message', m => {
  console.log(m.toString())
  socket.close()
})
