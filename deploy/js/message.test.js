// The messages of pkg/request/testdata/messages against docs/message.schema.json
// with ajv, a validator that shares nothing with the one of the Go tests.
import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { test } from 'node:test'
import Ajv2020 from 'ajv/dist/2020.js'

const repository = new URL('../../', import.meta.url)
const messages = new URL('pkg/request/testdata/messages/', repository)
const read = (url) => JSON.parse(readFileSync(url, 'utf8'))

const schema = read(new URL('docs/message.schema.json', repository))
// Strict but for two habits: `not` names fields that its parent describes, and a
// command is a tuple of one with more behind it.
const validate = new Ajv2020({ strict: true, strictRequired: false, strictTuples: false, allErrors: true }).compile(schema)

function fixtures (folder, least) {
  const names = readdirSync(new URL(`${folder}/`, messages)).map((file) => file.replace(/\.json$/, ''))
  assert.ok(names.length >= least, `${names.length} messages in ${folder}`)
  return names.map((name) => [name, read(new URL(`${folder}/${name}.json`, messages))])
}

// pathOf is where an error of ajv is, in the form of jobrelay's problems.
function pathOf (error) {
  const steps = error.instancePath.split('/').slice(1)
  if (error.keyword === 'required') steps.push(error.params.missingProperty)
  return steps.reduce((path, step) => {
    if (/^\d+$/.test(step)) return `${path}[${step}]`
    return /^\w+$/.test(step) ? `${path}.${step}` : `${path}[${JSON.stringify(step)}]`
  }, '$')
}

// check runs f on each message of a folder, and fails with all that it says.
function check (folder, least, f) {
  const wrong = fixtures(folder, least).map(([name, message]) => [name, f(validate(message), name)]).filter(([, said]) => said)
  assert.deepEqual(Object.fromEntries(wrong), {})
}

test('valid messages are taken', () => check('valid', 30, (taken) => !taken && validate.errors))

test('invalid messages are refused where they are broken', () => {
  const problems = read(new URL('invalid.json', messages))
  check('invalid', 40, (taken, name) => {
    if (taken) return 'taken'
    const [wanted] = problems[name][0].split(' ')
    const paths = validate.errors.map(pathOf)
    // ajv tells of a list as a whole where jobrelay names the element.
    return !paths.some((path) => path === wanted || (path !== '$' && wanted.startsWith(path)) || path.startsWith(`${wanted}[`)) && paths
  })
})

test('what is beyond a schema is taken by it', () => check('beyond', 10, (taken) => !taken && validate.errors))
