# Two images from one build: `streamer` (the last stage, so the default) and `feeder`, the sandbox's made-up traffic.

FROM rust:1.95-slim-bookworm AS build
# For jemalloc; any version does, and none of it reaches the images.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The dependencies first, with stand-ins for our own code: they change less often, so their layer is built once.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY sandbox/Cargo.toml sandbox/
RUN mkdir src sandbox/src \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs sandbox/src/ \
    && touch src/lib.rs sandbox/src/lib.rs \
    && cargo build --locked --release --workspace --bins
COPY . .
# Cargo goes by modification times, and what was built from the stand-ins is newer than the code.
RUN find src sandbox/src -name '*.rs' -exec touch {} + \
    && cargo build --locked --release --workspace --bins

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
