# Two images from one build: `streamer` (the last stage, so the default) and `feeder`, the sandbox's made-up traffic.

FROM rust:1.95-slim-bookworm AS tools
# make is for jemalloc; any version does, and none of it reaches the images.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && cargo install --locked cargo-chef@0.1.78
WORKDIR /src

# What the dependencies are, apart from our own code, so that they are built anew only when they change.
FROM tools AS recipe
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM tools AS build
COPY --from=recipe /recipe.json /
RUN cargo chef cook --locked --release --workspace --bins --recipe-path /recipe.json
COPY . .
RUN cargo build --locked --release --workspace --bins

# glibc and libgcc, which is all that the programs link, and the certificates of public authorities for rediss://. No
# shell, no package manager, and a user without rights.
FROM gcr.io/distroless/cc-debian12:nonroot AS base

FROM base AS feeder
COPY --from=build /src/target/release/sandbox /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/sandbox"]
CMD ["feed"]

FROM base AS streamer
COPY --from=build /src/target/release/tallycast /usr/local/bin/
# To listen elsewhere set PORT rather than --port: the health check reads it too.
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/tallycast", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tallycast"]
