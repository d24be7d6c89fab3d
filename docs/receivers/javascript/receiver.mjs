// A receiver of jobrelay's callbacks with the npm package standardwebhooks, which
// compares in constant time and refuses timestamps more than 5 minutes away.
//
//   npm ci
//   WEBHOOK_SECRETS='whsec_… whsec_…' LISTEN=127.0.0.1:8080 node receiver.mjs
import { createServer } from 'node:http'
import { Webhook, WebhookVerificationError } from 'standardwebhooks'

const maxBody = 1 << 20 // bytes

// The keys that are in force, with spaces between. There must be one.
const webhooks = (process.env.WEBHOOK_SECRETS ?? '').split(/\s+/).filter(Boolean).map((secret) => new Webhook(secret))
if (webhooks.length === 0) {
  console.error("WEBHOOK_SECRETS is empty; give it the keys of jobrelay's key file")
  process.exit(1)
}

// verify tells a callback of jobrelay's from anybody else's: one of the keys
// must fit.
function verify (body, headers) {
  return webhooks.some((webhook) => {
    try {
      webhook.verify(body, headers, { jsonParse: false })
      return true
    } catch (error) {
      if (error instanceof WebhookVerificationError) return false
      throw error
    }
  })
}

// In memory here; in a database where it counts: the ids that were seen (a unique
// column, written with the work in one transaction), and how far each job is.
const seen = new Set()
const statuses = new Map()

// store takes a callback once. Callbacks come in order, 0, 1 and one of 2, 3 and
// 99; one that was replayed may come late, and sets nothing back.
function store (webhookID, { id, status }) {
  if (seen.has(webhookID)) return
  seen.add(webhookID)
  if (statuses.has(id) && Math.min(status, 2) <= Math.min(statuses.get(id), 2)) {
    console.log(id, status, 'late')
    return
  }
  statuses.set(id, status)
  console.log(id, status)
}

async function receive (request) {
  if (request.method !== 'POST') return 405
  if (!(Number(request.headers['content-length']) <= maxBody)) return 413
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  const body = Buffer.concat(chunks)
  if (!verify(body, request.headers)) return 401
  let callback
  try {
    callback = JSON.parse(body)
  } catch {
    return 400
  }
  store(request.headers['webhook-id'], callback)
  return 204
}

const [host, port] = (process.env.LISTEN ?? '127.0.0.1:8080').split(':')
createServer((request, response) => {
  receive(request).then(
    (status) => response.writeHead(status).end(),
    (error) => {
      console.error(error)
      response.writeHead(500).end()
    })
}).listen(Number(port), host)
