# The local Kubernetes for development: a real control plane in one process, with
# simulated nodes. Its build context is bin/image/kubernetes, which
# deploy/docker/images.sh lays out.
FROM scratch
COPY root/ /
COPY --chown=65532:65532 data/ /data/
USER 65532:65532
ENTRYPOINT ["/kubernetes"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="jobrelay-kubernetes" \
      org.opencontainers.image.description="A Kubernetes control plane with simulated nodes in one process, for the development of jobrelay; not for real work" \
      org.opencontainers.image.source="https://github.com/jobrelay/jobrelay" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
