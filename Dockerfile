# nibble in a container: no compiler, no model, not root. Mount a model and name it:
#   docker run -p 50051:50051 -v $PWD/models:/models:ro nibble serve --model /models/SmolLM2-135M-Instruct.Q4_1.gguf
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS tools
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends \
      build-essential cmake ninja-build pkg-config python3 ca-certificates cargo-web rustc-web \
      libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev libssl-dev \
      libspdlog-dev nlohmann-json3-dev libcli11-dev prometheus-cpp-dev libcurl4-openssl-dev libxxhash-dev libeigen3-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .

FROM tools AS build
RUN cmake --preset release -DNIBBLE_TESTS=OFF \
    && cmake --build --preset release --target nibble \
    && install -D -s build/release/bin/nibble /out/nibble

# nvcc and cuBLASLt come out of NVIDIA's Python wheels, as in `make cuda`; only libcublasLt goes on into an image.
FROM tools AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN toolkit=$(.ci/cuda-toolkit compiler) \
    && cmake --preset cuda -DNIBBLE_TESTS=OFF -DCMAKE_CUDA_COMPILER="$toolkit/bin/nvcc" \
    && cmake --build --preset cuda --target nibble \
    && install -D -s build/cuda/bin/nibble /out/nibble
RUN cublas=$(.ci/cuda-toolkit cublas) \
    && install -D -m 644 "$cublas/lib/libcublasLt.so.13" /out/lib/libcublasLt.so.13

FROM ${BASE} AS runtime
RUN apt-get update && apt-get install -y --no-install-recommends \
      libgrpc++1.51 libprotobuf32 libabsl20220623 libssl3 libspdlog1.10 \
      libprometheus-cpp-core1.0 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# In here, loopback would reach nobody; what is published is up to who runs the container.
ENV NIBBLE_LISTEN=0.0.0.0:50051 NIBBLE_METRICS_LISTEN=0.0.0.0:9090
USER 65532:65532
# gRPC, metrics
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
# Liveness, not readiness: a server that loads is healthy; one that drains closes its port and ends. 127.0.0.1 is this container's own. For a server with TLS
# the environment needs NIBBLE_TLS_CA and NIBBLE_TLS_SERVER_NAME, a name of its certificate; with --tls-client-ca also
# NIBBLE_CLIENT_TLS_CERT and NIBBLE_CLIENT_TLS_KEY, what the check presents.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
  CMD ["/usr/local/bin/nibble", "health", "--server", "127.0.0.1:50051", "--service", "liveness"]
ENTRYPOINT ["/usr/local/bin/nibble"]
CMD ["serve"]

# The image for NVIDIA GPUs (docker build --target cuda; docker run --gpus all): the same, compiled with CUDA, and
# cuBLASLt. The driver's libcuda comes from the host.
FROM runtime AS cuda
# A folder that the loader searches without a cache, so no ldconfig.
COPY --from=build-cuda /out/lib/ /usr/lib/
COPY --from=build-cuda /out/nibble /usr/local/bin/nibble
# What NVIDIA's container runtime reads: which GPUs, and which parts of the driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility NIBBLE_DEVICE=cuda:0

# Last, so that it is the one that is built where no target is named.
FROM runtime
COPY --from=build /out/nibble /usr/local/bin/nibble
