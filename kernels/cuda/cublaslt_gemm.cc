// Gemm over cuBLASLt, which is loaded when a device is asked for: no program needs it to start, and
// no header of it to be built (they come in a package of 420 MB). The few declarations below are
// checked against NVIDIA's own where that header is at hand.
#include <dlfcn.h>
#include <library_types.h>

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/gemm.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#endif

namespace nibble::cuda {
namespace {

// cublasLt.h of CUDA 12 and 13.
using Handle = void*;
using Layout = void*;
using Operation = void*;
using Preference = void*;
using Status = int;
constexpr Status kSuccess = 0;
constexpr int kCompute32F = 68, kTransposed = 1;
constexpr int kOperationTransA = 3;
constexpr int kPreferenceWorkspace = 1, kPreferenceReductions = 3;
constexpr uint32_t kNoReduction = 0;
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};
#if __has_include(<cublasLt.h>)
static_assert(kCompute32F == CUBLAS_COMPUTE_32F && kTransposed == CUBLAS_OP_T);
static_assert(kOperationTransA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(kPreferenceWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(kPreferenceReductions == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(kNoReduction == CUBLASLT_REDUCTION_SCHEME_NONE && kSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));
#endif

struct Api {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  size_t (*version)();
  Status (*operation_create)(Operation*, int compute, cudaDataType scale);
  Status (*operation_set)(Operation, int attribute, const void* value, size_t bytes);
  Status (*operation_destroy)(Operation);
  Status (*layout_create)(Layout*, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld);
  Status (*layout_destroy)(Layout);
  Status (*preference_create)(Preference*);
  Status (*preference_set)(Preference, int attribute, const void* value, size_t bytes);
  Status (*preference_destroy)(Preference);
  Status (*choose)(Handle, Operation, Layout a, Layout b, Layout c, Layout d, Preference,
                   int wanted, Heuristic* found, int* num_found);
  Status (*multiply)(Handle, Operation, const void* alpha, const void* a, Layout, const void* b,
                     Layout, const void* beta, const void* c, Layout, void* d, Layout,
                     const Algorithm*, void* workspace, size_t workspace_bytes, cudaStream_t);
};

absl::Status Load(void* library, Api& api) {
  const std::pair<const char*, void**> symbols[] = {
      {"cublasLtCreate", reinterpret_cast<void**>(&api.create)},
      {"cublasLtDestroy", reinterpret_cast<void**>(&api.destroy)},
      {"cublasLtGetVersion", reinterpret_cast<void**>(&api.version)},
      {"cublasLtMatmulDescCreate", reinterpret_cast<void**>(&api.operation_create)},
      {"cublasLtMatmulDescSetAttribute", reinterpret_cast<void**>(&api.operation_set)},
      {"cublasLtMatmulDescDestroy", reinterpret_cast<void**>(&api.operation_destroy)},
      {"cublasLtMatrixLayoutCreate", reinterpret_cast<void**>(&api.layout_create)},
      {"cublasLtMatrixLayoutDestroy", reinterpret_cast<void**>(&api.layout_destroy)},
      {"cublasLtMatmulPreferenceCreate", reinterpret_cast<void**>(&api.preference_create)},
      {"cublasLtMatmulPreferenceSetAttribute", reinterpret_cast<void**>(&api.preference_set)},
      {"cublasLtMatmulPreferenceDestroy", reinterpret_cast<void**>(&api.preference_destroy)},
      {"cublasLtMatmulAlgoGetHeuristic", reinterpret_cast<void**>(&api.choose)},
      {"cublasLtMatmul", reinterpret_cast<void**>(&api.multiply)},
  };
  for (const auto& [name, to] : symbols) {
    *to = dlsym(library, name);
    if (*to == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("libcublasLt has no function ", name, "; CUDA 12 or 13 is needed"));
    }
  }
  return absl::OkStatus();
}

// Column-major as cuBLASLt sees it: y^T [out, rows] = W [out, cols] * x^T [cols, rows].
class CublasLtGemm : public Gemm {
 public:
  CublasLtGemm(const Api& api, Handle handle) : api_(api), handle_(handle) {}
  ~CublasLtGemm() override { api_.destroy(handle_); }

  std::string name() const override {
    const size_t version = api_.version();
    return absl::StrCat("cuBLASLt ", version / 10000, ".", version / 100 % 100, ".", version % 100);
  }

  cudaError_t Run(const GemmCall& call, cudaStream_t stream) override {
    const Algorithm* algorithm = AlgorithmFor(call);
    if (algorithm == nullptr) return cudaErrorNotSupported;
    Problem problem(api_, call, call.rows);
    if (!problem.ok) return cudaErrorNotSupported;
    const float one = 1, zero = 0;
    const Status status =
        api_.multiply(handle_, problem.operation, &one, call.w, problem.w, call.x, problem.x, &zero,
                      call.y, problem.y, call.y, problem.y, algorithm, nullptr, 0, stream);
    return status == kSuccess ? cudaSuccess : cudaErrorUnknown;
  }

 private:
  struct Problem {
    Problem(const Api& api, const GemmCall& call, int32_t rows) : api(api) {
      const cudaDataType type = call.dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_16F;
      const auto cols = static_cast<uint64_t>(call.cols), out = static_cast<uint64_t>(call.out);
      const auto n = static_cast<uint64_t>(rows);
      ok = api.operation_create(&operation, kCompute32F, CUDA_R_32F) == kSuccess &&
           api.operation_set(operation, kOperationTransA, &kTransposed, sizeof kTransposed) ==
               kSuccess &&
           api.layout_create(&w, type, cols, out, call.cols) == kSuccess &&
           api.layout_create(&x, type, cols, n, call.x_stride) == kSuccess &&
           api.layout_create(&y, CUDA_R_32F, out, n, call.y_stride) == kSuccess;
    }
    Problem(const Problem&) = delete;
    ~Problem() {
      for (const Layout layout : {w, x, y}) {
        if (layout != nullptr) api.layout_destroy(layout);
      }
      if (operation != nullptr) api.operation_destroy(operation);
    }
    const Api& api;
    Operation operation = nullptr;
    Layout w = nullptr, x = nullptr, y = nullptr;
    bool ok = false;
  };

  // By the shape of W, for kGemmRows rows; null when cuBLASLt knows none.
  const Algorithm* AlgorithmFor(const GemmCall& call) {
    const Key key = {{call.cols, call.out}, {call.x_stride, static_cast<int32_t>(call.dtype)}};
    const auto known = algorithms_.find(key);
    if (known != algorithms_.end()) return &known->second;
    Problem problem(api_, call, kGemmRows);
    Preference preference = nullptr;
    if (!problem.ok || api_.preference_create(&preference) != kSuccess) return nullptr;
    const uint64_t no_workspace = 0;
    Heuristic found = {};
    int num_found = 0;
    const bool ok = api_.preference_set(preference, kPreferenceWorkspace, &no_workspace,
                                        sizeof no_workspace) == kSuccess &&
                    api_.preference_set(preference, kPreferenceReductions, &kNoReduction,
                                        sizeof kNoReduction) == kSuccess &&
                    api_.choose(handle_, problem.operation, problem.w, problem.x, problem.y,
                                problem.y, preference, 1, &found, &num_found) == kSuccess &&
                    num_found == 1 && found.state == kSuccess;
    api_.preference_destroy(preference);
    return ok ? &algorithms_.emplace(key, found.algorithm).first->second : nullptr;
  }

  using Key = std::pair<std::pair<int32_t, int32_t>, std::pair<int32_t, int32_t>>;
  const Api api_;
  const Handle handle_;
  std::map<Key, Algorithm> algorithms_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Gemm>> MakeGemm() {
  void* library = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        "neither libcublasLt.so.13 nor libcublasLt.so.12 was found; install cuBLAS of CUDA 12 or "
        "13, or set LD_LIBRARY_PATH to where it is");
  }
  Api api = {};
  if (const absl::Status status = Load(library, api); !status.ok()) return status;
  Handle handle = nullptr;
  if (const Status status = api.create(&handle); status != kSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuBLASLt does not start, its status is ", status));
  }
  return std::make_unique<CublasLtGemm>(api, handle);
}

}  // namespace nibble::cuda
