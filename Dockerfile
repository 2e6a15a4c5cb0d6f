# syntax=docker/dockerfile:1
# The server alone: static, without a shell, as user 65532.
#
#   docker build --build-arg VERSION=$(git describe --tags --always) -t sluiced .
#   docker run --rm -v sluice:/var/lib/sluice sluiced init     # once: the secret and the admin token
#   docker run -v sluice:/var/lib/sluice --network host sluiced
#
# In Kubernetes: docs/guide/kubernetes.md.
# The operator's command line, for addons.analyze: docker build --target sluice -t sluice .
# sluiced listens on loopback unless it has TLS and a list of peers, hence --network host.

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
# No 'go mod download': it would fetch what only the operator's command line and tests need.
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X github.com/voicecore-ai/sluice/app.Version=$VERSION" -o /out/sluiced ./cmd/sluiced \
    && mkdir /out/data

FROM build AS build-sluice
ARG TARGETOS TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X github.com/voicecore-ai/sluice/app.Version=$VERSION" -o /out/sluice ./cmd/sluice

FROM gcr.io/distroless/static-debian12:nonroot AS sluice
COPY --from=build-sluice /out/sluice /sluice
COPY LICENSE /LICENSE
USER 65532:65532
ENTRYPOINT ["/sluice"]

# The last one is what 'docker build' makes unless told: the server.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/sluiced /sluiced
COPY --from=build --chown=65532:65532 --chmod=0700 /out/data /var/lib/sluice
COPY LICENSE /LICENSE
ENV SLUICE_DATA=/var/lib/sluice
VOLUME /var/lib/sluice
USER 65532:65532
ENTRYPOINT ["/sluiced"]
CMD ["serve"]
