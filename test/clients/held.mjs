// Subscribes to newHeads, makes a file once the first has come, and waits until
// the gateway ends the connection. Prints how it ended.
//
//   node held.mjs WS-URL FILE
import { writeFileSync } from 'node:fs'
import { WebSocket } from 'ws'

const [url, file] = process.argv.slice(2)
const socket = new WebSocket(url)
let heads = 0
socket.on('open', () => socket.send('{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}'))
socket.on('message', m => {
  if (JSON.parse(m).method === 'eth_subscription' && heads++ === 0) writeFileSync(file, '')
})
socket.on('close', (code, reason) => console.log(JSON.stringify({ code, reason: reason.toString(), heads })))
