# syntax=docker/dockerfile:1
# The controller and the vantages in one image: a static program, certificate authorities, and nothing else.
#
#   scripts/package --without-binaries            # once: fetches the certificate authorities of RDS into dist/
#   docker buildx build --platform linux/arm64 \
#     --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" \
#     --output type=image,name=REPOSITORY:TAG,push=true,rewrite-timestamp=true .
#
# Reproducible: the same commit, base and epoch give the same image. A tag may move: for a release, name the base by its
# digest with --build-arg RUST_IMAGE=rust@sha256:….
ARG RUST_IMAGE=rust:1.95.0-bookworm

FROM ${RUST_IMAGE} AS build
# musl-tools for a static program; cmake and clang for the cryptography.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates clang cmake musl-tools \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY rust-toolchain.toml ./
RUN rustup target add "$(uname -m)-unknown-linux-musl"
COPY Cargo.toml Cargo.lock aurora-failover.example.toml ./
COPY statemachine statemachine
COPY lab lab
COPY cloudformation/custom-resources cloudformation/custom-resources
COPY src src
# Cargo wants to see the files of every target, also of those that are not built.
COPY benches benches
COPY tests tests
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} CARGO_INCREMENTAL=0
# The lab stays out; paths of this machine too.
RUN target="$(uname -m)-unknown-linux-musl" \
    && RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo" \
       cargo build --locked --release --target "$target" --bin aurora-failover \
       --no-default-features --features dashboard,mimalloc,otlp,parquet \
    && install -D -m 0755 "target/$target/release/aurora-failover" /image/aurora-failover \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt
COPY --chmod=0644 dist/rds/global-bundle.pem /image/opt/rds/global-bundle.pem

FROM scratch
COPY --from=build /image/ /
# Nobody; the file system may be read-only: nothing is written.
USER 65532:65532
EXPOSE 9464 9470
ENTRYPOINT ["/aurora-failover"]
CMD ["--help"]
