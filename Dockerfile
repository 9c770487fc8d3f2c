# Two images from one build: `streamer` (the last and thus default stage) and `feeder`, which publishes synthetic traffic.

FROM rust:1.95-slim-bookworm AS tools
# make builds jemalloc, and with g++ librdkafka. Their versions do not matter, and they are not part of the images.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/* \
    && cargo install --locked cargo-chef@0.1.78
WORKDIR /src

# The list of dependencies without the source code, so that they are rebuilt only if they change.
FROM tools AS recipe
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM tools AS build
COPY --from=recipe /recipe.json /
# Features besides the default ones: docker build --build-arg FEATURES=amqp,kafka .
ARG FEATURES=""
RUN cargo chef cook --locked --release --workspace --bins --features "$FEATURES" --recipe-path /recipe.json
COPY . .
RUN cargo build --locked --release --workspace --bins --features "$FEATURES"

# Contains glibc and libgcc, the only linked libraries, and CA certificates for rediss://. No shell, no package manager,
# and an unprivileged user.
FROM gcr.io/distroless/cc-debian12:nonroot AS base

FROM base AS feeder
COPY --from=build /src/target/release/sandbox /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/sandbox"]
CMD ["feed"]

FROM base AS streamer
COPY --from=build /src/target/release/tallycast /usr/local/bin/
# To change port or address, set PORT or TALLYCAST_ADDRESS rather than flags: the health check uses them as well.
EXPOSE 8001
# While it starts, the check runs every second (Docker 25 and later; earlier versions use the interval).
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --start-interval=1s CMD ["/usr/local/bin/tallycast", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tallycast"]
