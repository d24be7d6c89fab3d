// A tap of jobrelay's job events: prints each as a CloudEvent and acknowledges it.
//
//   npm ci
//   NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=../keys/tap-billing.nk node tap.mjs billing
import { readFile } from 'node:fs/promises'
import { jetstream } from '@nats-io/jetstream'
import { connect, nkeyAuthenticator } from '@nats-io/transport-node'
import { CloudEvent } from 'cloudevents'

const seed = new TextEncoder().encode((await readFile(process.env.NATS_NKEY, 'utf8')).trim())
const connection = await connect({ servers: process.env.NATS_URL, authenticator: nkeyAuthenticator(seed), maxReconnectAttempts: -1 })
const consumer = await jetstream(connection, { apiPrefix: 'JOBRELAY.API' }).consumers.get('EVENTS', `tap-${process.argv[2]}`)

// read makes a CloudEvent of a message: its attributes are the ce- headers,
// percent-encoded, and its data is JSON.
function read (message) {
  const attributes = { data: message.json() }
  for (const name of message.headers.keys()) {
    if (name.startsWith('ce-')) attributes[name.slice(3)] = decodeURIComponent(message.headers.get(name))
  }
  return new CloudEvent(attributes)
}

for await (const message of await consumer.consume()) {
  // Here goes your work. What is not acknowledged comes again, with the same id.
  console.log(JSON.stringify(read(message)))
  message.ack()
}
