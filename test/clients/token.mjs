// jsontokens, an implementation of ES256K that shares no code with bsn.
//
//   node token.mjs sign KEYFILE JSON   signs a token with these claims; iat and exp are in seconds from now
//   node token.mjs verify TOKEN PUBLIC tells whether bsn's own token is good, by the public key in base64
import { readFileSync } from 'node:fs'
import { decodeToken, TokenSigner, TokenVerifier } from 'jsontokens'

const [action, ...rest] = process.argv.slice(2)

const actions = {
  sign (file, json) {
    const claims = JSON.parse(json)
    const now = Math.floor(Date.now() / 1000)
    const key = readFileSync(file, 'utf8').trim()
    return new TokenSigner('ES256K', key).sign({ ...claims, iat: now + claims.iat, exp: now + claims.exp })
  },
  verify (token, key) {
    const good = new TokenVerifier('ES256K', Buffer.from(key, 'base64').toString('hex')).verify(token)
    return JSON.stringify({ good, ...decodeToken(token) })
  }
}
console.log(actions[action](...rest))
