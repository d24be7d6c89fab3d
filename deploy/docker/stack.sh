#!/bin/sh
# stack.sh VERB: what make's targets of the compose stack do. Settings come from
# the environment, else from .env (or the file that ENV_FILE names): see
# .env.example.
set -eu
cd "$(dirname "$0")/../.."
COMPOSE=${COMPOSE:-docker-compose}
wait_most=${WAIT:-180}

say() { printf '%s\n' "$1"; }
fail() {
	printf 'stack: %s\n' "$1" >&2
	exit 1
}

# compose runs with every profile, so that toxiproxy is seen where it is there.
# shellcheck disable=SC2086 # COMPOSE may be two words
compose() { COMPOSE_PROFILES=faults $COMPOSE ${ENV_FILE:+--env-file "$ENV_FILE"} "$@"; }

# setting NAME: from the environment, else from .env.
setting() {
	eval "value=\${$1-}"
	if [ -z "$value" ] && [ -r "${ENV_FILE:-.env}" ]; then
		value=$(sed -n "s/^$1=//p" "${ENV_FILE:-.env}" | tail -n 1)
	fi
	printf '%s' "$value"
}

container() {
	id=$(compose ps -q "$1" | head -n 1)
	[ -n "$id" ] || fail "$1 does not run: make up"
	printf '%s' "$id"
}

running() { [ -n "$(compose ps -a -q "$1" 2>/dev/null)" ]; }

# through_toxiproxy leads the services to toxiproxy instead of the parts.
through_toxiproxy() {
	export NATS_HOST=toxiproxy KUBERNETES_HOST=toxiproxy
	if [ -z "$(setting SQS_ENDPOINT)$(setting SQS_QUEUE_URL)" ]; then
		export SQS_ENDPOINT=http://toxiproxy:9324
	fi
}

# as_it_runs is for what adds to a running stack.
as_it_runs() {
	if running toxiproxy; then through_toxiproxy; fi
	own_nats
}

# own_nats: an image that NATS_IMAGE names runs as its own user on its own volume.
own_nats() {
	if [ -n "$(setting NATS_IMAGE)" ]; then
		if [ -z "$(setting NATS_USER)" ]; then export NATS_USER=0:0; fi
		if [ -z "$(setting NATS_VOLUME)" ]; then export NATS_VOLUME=nats-image; fi
	fi
}

up() {
	docker version >/dev/null 2>&1 || fail "no Docker daemon answers: start one, or point DOCKER_HOST at it"
	images='jobrelay kubernetes'
	if [ -z "$(setting NATS_IMAGE)" ] || [ "${FAULTS:-}" = 1 ]; then images="$images parts"; fi
	# shellcheck disable=SC2086 # three words
	sh deploy/docker/images.sh $images
	own_nats
	notifiers=$(setting NOTIFIERS)
	if [ "${FAULTS:-}" = 1 ]; then
		through_toxiproxy
		compose up -d --no-build --remove-orphans --scale "notifier=${notifiers:-2}"
	else
		if running toxiproxy; then compose rm -s -f toxiproxy; fi
		compose up -d --no-build --remove-orphans --scale "notifier=${notifiers:-2}" \
			nats sqs kubernetes webhooks ingest launcher watcher notifier console
	fi
	await_health
	# What an earlier build of ours left untagged.
	docker image prune -f --filter label=org.opencontainers.image.source=https://github.com/jobrelay/jobrelay >/dev/null
	addresses
}

# states: one line a container: its name, state and health.
states() {
	# shellcheck disable=SC2046 # ids
	docker inspect -f '{{.Name}} {{.State.Status}} {{with .State.Health}}{{.Status}}{{end}}' $(compose ps -a -q)
}

await_health() {
	waited=0
	while waiting=$(states | grep -v ' running healthy$'); do
		if [ "$waited" -ge "$wait_most" ]; then
			say "$waiting" >&2
			for name in $(say "$waiting" | sed 's/ .*//'); do
				docker inspect -f '{{.Name}}: {{with .State.Health}}{{range .Log}}{{.Output}}{{end}}{{end}}' "$name" | tail -n 3 >&2
				docker logs --tail 5 "$name" >&2 2>&1 || :
			done
			fail "not healthy in $wait_most s, see above"
		fi
		if [ $((waited % 5)) -eq 0 ]; then
			say "waiting for $(say "$waiting" | sed -n 's,^/\([^ ]*\) .*,\1,p' | tr '\n' ' ')"
		fi
		sleep 1
		waited=$((waited + 1))
	done
	say "all $(states | wc -l | tr -d ' ') containers are healthy"
}

addresses() {
	nats=$(compose port nats 4222)
	kubernetes=$(compose port kubernetes 6443)
	cat <<END

  queue       http://$(compose port sqs 9324)/000000000000/jobs
  webhooks    http://$(compose port webhooks 8080), from the containers http://webhooks:8080
  console     http://$(compose port console 8090): pages of what happens
  NATS        nats://$nats, monitor http://$(compose port nats 8222)
  Kubernetes  https://$kubernetes: make kubeconfig
END
	if running toxiproxy; then
		cat <<END
  toxiproxy   http://$(compose port toxiproxy 8474): make fault-cut LINK=nats, fault-slow, fault-reset
END
	fi
	cat <<END

  make send                 the original's sample and its callbacks
  make logs                 what all say
  make scale NOTIFIERS=4    more notifiers
  make down                 ends it; the volumes stay (VOLUMES=1 removes them)
END
}

down() {
	if [ "${VOLUMES:-}" = 1 ]; then
		compose down --remove-orphans --volumes
	else
		compose down --remove-orphans
	fi
}

# send puts the original's sample on the queue, and follows its callbacks. Its id
# is new each time, since an id that was accepted is spent.
send() {
	as_it_runs
	id=${ID:-sample-$(date -u +%Y%m%dT%H%M%SZ)-$$}
	host=webhooks
	if running toxiproxy; then host=toxiproxy; fi
	ingest=$(container ingest)
	webhooks=$(container webhooks)
	sed -e "s,31a89a91-43d8-4786-a195-9b25cec28a44,$id," -e "s,http://webhook.com,http://$host:8080/sample," pkg/request/testdata/sample.json |
		docker exec -i "$ingest" /jobrelay send -
	say "following the callbacks of $id"
	shown=0
	waited=0
	while [ "$waited" -lt 60 ]; do
		callbacks=$(docker logs --tail 5000 "$webhooks" 2>/dev/null |
			sed -n 's/.*"body":"\(.*\)","path".*/\1/p' | sed 's/\\"/"/g' | grep -F "{\"id\":\"$id\"," || :)
		count=$(printf '%s' "$callbacks" | grep -c . || :)
		if [ "$count" -gt "$shown" ]; then
			say "$callbacks" | sed -n "$((shown + 1)),\$p"
			shown=$count
		fi
		seen=$(say "$callbacks" | sed -n 's/.*"status":\([0-9]*\),.*/\1/p' | uniq | tr '\n' ' ')
		case $seen in
		'0 1 2 ')
			say "callbacks 0, 1 and 2 arrived, in order"
			return
			;;
		*'3 ' | *'99 ') fail "it ended with callbacks $seen" ;;
		esac
		sleep 1
		waited=$((waited + 1))
	done
	fail "the callbacks 0, 1 and 2 did not come in 60 s (so far: ${seen:-none}); an id that was sent before is spent; make logs says more"
}

scale() {
	[ -n "${NOTIFIERS:-}" ] || fail "say how many: make scale NOTIFIERS=4"
	as_it_runs
	compose up -d --no-build --no-recreate --no-deps --scale "notifier=$NOTIFIERS" notifier
	await_health
}

# kubeconfig writes the administrator's for this host.
kubeconfig() {
	file=${KUBECONFIG_OUT:-.jobrelay/compose.kubeconfig}
	mkdir -p "$(dirname "$file")"
	address=$(compose port kubernetes 6443)
	(umask 077 && docker cp "$(container kubernetes):/data/kubeconfig" - | tar -xO -f - |
		sed "s,server: .*,server: https://$address," >"$file")
	say "export KUBECONFIG=$PWD/$file"
}

# links is the one that LINK names, or every one.
links() {
	case ${LINK:-} in
	nats | sqs | kubernetes | webhooks) say "$LINK" ;;
	'') say "nats sqs kubernetes webhooks" ;;
	*) fail "there is no link $LINK; there are nats, sqs, kubernetes and webhooks" ;;
	esac
}

fault() {
	running toxiproxy || fail "toxiproxy is not between the parts: make up FAULTS=1"
	proxy=$(container toxiproxy)
	chosen=$(links)
	if [ "$1" != reset ] && [ -z "${LINK:-}" ]; then fail "name a link: LINK=nats, sqs, kubernetes or webhooks"; fi
	for link in $chosen; do
		case $1 in
		cut)
			docker exec "$proxy" /probe "http://127.0.0.1:8474/proxies/$link" '{"enabled": false}'
			say "$link is cut: its connections are closed and new ones refused"
			;;
		slow)
			docker exec "$proxy" /toxiproxy-cli toxic remove -n slow "$link" >/dev/null 2>&1 || :
			docker exec "$proxy" /toxiproxy-cli toxic add -n slow -t latency -a "latency=${MS:-300}" "$link" >/dev/null
			say "$link answers ${MS:-300} ms late"
			;;
		reset)
			for toxic in $(docker exec "$proxy" /toxiproxy-cli inspect "$link" | sed -n 's/^\([^[:space:]:]*\).*type=.*/\1/p'); do
				docker exec "$proxy" /toxiproxy-cli toxic remove -n "$toxic" "$link" >/dev/null
			done
			docker exec "$proxy" /probe "http://127.0.0.1:8474/proxies/$link" '{"enabled": true}'
			say "$link is whole again"
			;;
		esac
	done
}

case ${1:-} in
up | down | send | scale | kubeconfig) "$1" ;;
logs) compose logs -f --tail 100 ;;
fault-cut | fault-slow | fault-reset) fault "${1#fault-}" ;;
*) fail "usage: stack.sh up | down | logs | send | scale | kubeconfig | fault-cut | fault-slow | fault-reset" ;;
esac
