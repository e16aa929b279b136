# nibble in a container: no compiler, no model, not root. Mount a model and name it:
#   docker run -p 50051:50051 -v $PWD/models:/models:ro nibble serve --model /models/SmolLM2-135M-Instruct.Q4_1.gguf
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends \
      build-essential cmake ninja-build pkg-config python3 ca-certificates cargo-web rustc-web \
      libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev libssl-dev \
      libspdlog-dev nlohmann-json3-dev libcli11-dev prometheus-cpp-dev libcurl4-openssl-dev libxxhash-dev libeigen3-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cmake --preset release -DNIBBLE_TESTS=OFF \
    && cmake --build --preset release --target nibble \
    && install -D -s build/release/bin/nibble /out/nibble

FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends \
      libgrpc++1.51 libprotobuf32 libabsl20220623 libssl3 libspdlog1.10 \
      libprometheus-cpp-core1.0 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=build /out/nibble /usr/local/bin/nibble
# In here, loopback would reach nobody; what is published is up to who runs the container.
ENV NIBBLE_LISTEN=0.0.0.0:50051 NIBBLE_METRICS_LISTEN=0.0.0.0:9090
USER 65532:65532
# gRPC, metrics
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
# 127.0.0.1 is this container's own. A server with TLS needs NIBBLE_TLS_CA (and --tls-cert's files) in its environment.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
  CMD ["/usr/local/bin/nibble", "health", "--server", "127.0.0.1:50051"]
ENTRYPOINT ["/usr/local/bin/nibble"]
CMD ["serve"]
