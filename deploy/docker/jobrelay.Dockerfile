# The services, the console and the command people type: one binary, six names. Its
# build context is bin/image/jobrelay, which deploy/docker/images.sh lays out.
FROM scratch
COPY root/ /
COPY --chown=65532:65532 data/ /data/
USER 65532:65532
ENTRYPOINT ["/jobrelay"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="jobrelay" \
      org.opencontainers.image.description="One SQS message becomes one Kubernetes Job, and its webhook is told how it went: ingest, launcher, watcher, notifier, console and the jobrelay command" \
      org.opencontainers.image.source="https://github.com/jobrelay/jobrelay" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
