// Compiles the Solidity files of one app. Standard input is JSON:
//   {"root": folder, "sources": [paths below it], "settings": solc's}
// and standard output {"version", "errors": [{severity, text}], "contracts": {path: {name: …}}}.
// Files are found below the folder itself or in its node_modules, and nowhere else.
'use strict'
const fs = require('fs')
const path = require('path')
const solc = require('solc')

const maxSource = 1 << 20
const maxSources = 1000

const input = JSON.parse(fs.readFileSync(0, 'utf8'))
const root = fs.realpathSync(input.root)
let read = 0

function load(name) {
  for (const base of ['', 'node_modules']) {
    let file
    try {
      file = fs.realpathSync(path.join(root, base, name))
    } catch {
      continue
    }
    if (!file.startsWith(root + path.sep)) throw new Error(`${name} leads out of the app's folder`)
    const stat = fs.statSync(file)
    if (!stat.isFile()) throw new Error(`${name} is no file`)
    if (stat.size > maxSource) throw new Error(`${name} is larger than ${maxSource >> 10} KiB`)
    if (++read > maxSources) throw new Error(`more than ${maxSources} files`)
    return fs.readFileSync(file, 'utf8')
  }
  throw new Error(`${name} is neither in the app's folder nor in its node_modules; if it is from a package, run npm install there`)
}

function main() {
  const sources = {}
  for (const name of input.sources) sources[name] = { content: load(name) }
  const compiled = JSON.parse(
    solc.compile(JSON.stringify({ language: 'Solidity', sources, settings: input.settings }), {
      import(name) {
        try {
          return { contents: load(name) }
        } catch (error) {
          return { error: error.message }
        }
      }
    })
  )
  const contracts = {}
  for (const name of input.sources) {
    contracts[name] = {}
    for (const [contract, out] of Object.entries(compiled.contracts?.[name] ?? {})) {
      contracts[name][contract] = { abi: out.abi, bytecode: out.evm.bytecode, deployedBytecode: out.evm.deployedBytecode }
    }
  }
  const errors = (compiled.errors ?? []).map((e) => ({ severity: e.severity, text: e.formattedMessage }))
  return { version: solc.version(), errors, contracts }
}

let result
try {
  result = main()
} catch (error) {
  result = { version: solc.version(), errors: [{ severity: 'error', text: error.message }], contracts: {} }
}
process.stdout.write(JSON.stringify(result))
