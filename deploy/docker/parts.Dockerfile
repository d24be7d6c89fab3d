# Parts of the development stack, built from their Go modules: nats-server,
# toxiproxy with its command, and the probe. Its build context is
# bin/image/parts, which deploy/docker/images.sh lays out.
FROM scratch
COPY root/ /
COPY --chown=65532:65532 data/ /data/
USER 65532:65532
ENTRYPOINT ["/nats-server"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="jobrelay-parts" \
      org.opencontainers.image.description="Parts of jobrelay's development stack: nats-server, toxiproxy-server, toxiproxy-cli and a probe" \
      org.opencontainers.image.source="https://github.com/jobrelay/jobrelay" \
      org.opencontainers.image.licenses="Apache-2.0 AND MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
