# The command people type, out of `make build`; no base image and no shell.
FROM scratch
COPY bin/jobrelay /jobrelay
USER 65532:65532
ENTRYPOINT ["/jobrelay"]
