#!/bin/sh
# images.sh IMAGE...: lays out bin/image/IMAGE and builds the image, for each of
# jobrelay, parts and kubernetes. The binaries are there already: nothing is
# compiled inside Docker and no base image is fetched.
#
# The labels say the version of what is inside and the commit that it is of; they
# change with it alone, so that `make up` recreates no container without need.
# CA_CERTIFICATES is a PEM file with the authorities that callbacks and SQS are
# checked against; without it, the host's own bundle is taken.
set -eu
cd "$(dirname "$0")/../.."
say() { printf 'images: %s\n' "$1" >&2; }

if [ "$(go env GOOS)" != linux ]; then
	say "images hold binaries for Linux, and these are for $(go env GOOS): build on Linux, or in a clone of its own with GOOS=linux in the environment"
	exit 1
fi

# authorities is the host's bundle where one is found.
authorities() {
	if [ -n "${CA_CERTIFICATES:-}" ]; then
		[ -r "$CA_CERTIFICATES" ] || { say "CA_CERTIFICATES=$CA_CERTIFICATES cannot be read"; exit 1; }
		echo "$CA_CERTIFICATES"
		return
	fi
	for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
		if [ -r "$file" ]; then
			echo "$file"
			return
		fi
	done
}

# lay_out IMAGE: its files with fixed modes, so that an unchanged image stays the
# same whatever the umask.
lay_out() {
	dir=bin/image/$1
	rm -rf "$dir"
	mkdir -p "$dir/root/etc/ssl/certs" "$dir/data"
	cp deploy/docker/passwd deploy/docker/group "$dir/root/etc/"
	case $1 in
	jobrelay)
		ln bin/jobrelay "$dir/root/jobrelay"
		for service in ingest launcher watcher notifier console; do
			ln -s jobrelay "$dir/root/$service"
		done
		bundle=$(authorities)
		if [ -n "$bundle" ]; then
			cp "$bundle" "$dir/root/etc/ssl/certs/ca-certificates.crt"
		else
			say "this host has no bundle of certificate authorities: from the image, https callbacks and the real SQS will fail; name a PEM file with CA_CERTIFICATES=FILE"
		fi
		;;
	parts)
		cp deploy/docker/toxiproxy.json "$dir/root/etc/"
		for part in nats-server toxiproxy-server toxiproxy-cli probe; do
			ln "bin/$part" "$dir/root/$part"
		done
		;;
	kubernetes) ln bin/kubernetes "$dir/root/kubernetes" ;;
	*)
		say "there is no image $1; there are jobrelay, parts and kubernetes"
		exit 2
		;;
	esac
	find "$dir" -type d -exec chmod 755 {} +
	find "$dir" -type f -perm -u=x -exec chmod 755 {} +
	find "$dir" -type f ! -perm -u=x -exec chmod 644 {} +
}

# version IMAGE: of what is inside.
version() {
	case $1 in
	jobrelay) bin/jobrelay --version ;;
	parts) go list -m -f '{{.Version}}' github.com/nats-io/nats-server/v2 ;;
	kubernetes) sed -n 's/^kubernetes=//p' deploy/dev/kubernetes/build.sh ;;
	esac
}

# revision IMAGE: the commit that it is of.
revision() {
	commit=
	case $1 in
	jobrelay) commit=$(go version -m bin/jobrelay | sed -n 's/.*vcs\.revision=//p') ;;
	parts) commit=$(git log -1 --format=%H -- go.mod tools/go.mod deploy/docker 2>/dev/null) || : ;;
	kubernetes) commit=$(git log -1 --format=%H -- deploy/dev/kubernetes 2>/dev/null) || : ;;
	esac
	# Go writes none in a git worktree, and nobody does in an unpacked archive.
	[ -n "$commit" ] || commit=$(git rev-parse HEAD 2>/dev/null) || commit=unknown
	echo "$commit"
}

for image in "$@"; do
	lay_out "$image"
	name=jobrelay-$image
	[ "$image" != jobrelay ] || name=jobrelay
	say "$name:dev"
	# Quiet: the client's words about its own builder are nobody's business here.
	docker build --quiet --tag "$name:dev" --file "deploy/docker/$image.Dockerfile" \
		--build-arg "VERSION=$(version "$image")" --build-arg "REVISION=$(revision "$image")" \
		"bin/image/$image" >"bin/image/$image.log" 2>&1 || {
		cat "bin/image/$image.log" >&2
		say "$name could not be built"
		exit 1
	}
done
