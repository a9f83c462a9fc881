# The proxy. `docker build -t pg-ha-proxy:0.1 .` compiles it; `deploy/cluster build` puts in what cargo has built, where
# the image of Rust can't be had: --target prebuilt, with the program and proxy.toml as the whole context.
ARG RUST=rust:1-slim-trixie
ARG BASE=debian:trixie-slim

FROM ${BASE} AS runtime
RUN useradd --system --uid 6432 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pg-ha-proxy
USER 6432
WORKDIR /etc/pg-ha-proxy
EXPOSE 6432 9187
# Open transactions may end (limits.drain_timeout) before the port closes.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["pg-ha-proxy", "status", "--ready", "--config", "proxy.toml"]
ENTRYPOINT ["pg-ha-proxy"]
CMD ["run", "--config", "proxy.toml"]

FROM runtime AS prebuilt
COPY proxy.toml /etc/pg-ha-proxy/
COPY pg-ha-proxy /usr/local/bin/

FROM ${RUST} AS build
RUN apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev protobuf-compiler libprotobuf-dev
WORKDIR /src
COPY . .
RUN PROTOC=/usr/bin/protoc cargo build --locked --release && strip target/release/pg-ha-proxy

FROM runtime
COPY proxy.toml /etc/pg-ha-proxy/
COPY --from=build /src/target/release/pg-ha-proxy /usr/local/bin/
