// Gemm over cuBLASLt, which is loaded when a device is asked for: no program needs it to start, and
// no header of it to be built (they come in a package of 420 MB). The few declarations below are
// checked against NVIDIA's own where that header is at hand.
#include <dlfcn.h>
#include <library_types.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
constexpr int kCompute32F = 68, kCompute32I = 72, kTransposed = 1;
constexpr int kOperationTransA = 3;
constexpr int kOperationScalePointerA = 17, kOperationScalePointerB = 18;
constexpr int kOperationScaleModeA = 31, kOperationScaleModeB = 32;  // since 12.8
constexpr int32_t kScaleVector128 = 4, kScaleBlock128x128 = 5;       // since 12.9
constexpr int kPreferenceWorkspace = 1, kPreferenceReductions = 3;
constexpr int kPreferenceAlignments[] = {5, 6, 7, 8};  // of A, B, C, D; else 256 bytes are assumed
constexpr uint32_t kAlignment = 16;                    // what GemmCall and CodesCall promise
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
static_assert(kOperationTransA == CUBLASLT_MATMUL_DESC_TRANSA && kCompute32I == CUBLAS_COMPUTE_32I);
static_assert(kOperationScalePointerA == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
static_assert(kOperationScalePointerB == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
static_assert(kOperationScaleModeA == CUBLASLT_MATMUL_DESC_A_SCALE_MODE);
static_assert(kOperationScaleModeB == CUBLASLT_MATMUL_DESC_B_SCALE_MODE);
static_assert(kScaleVector128 == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
static_assert(kScaleBlock128x128 == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);
static_assert(kPreferenceWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(kPreferenceReductions == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(kPreferenceAlignments[0] == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(kPreferenceAlignments[1] == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(kPreferenceAlignments[2] == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(kPreferenceAlignments[3] == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
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

// What a product is to cuBLASLt, but for its number of rows; algorithms are kept by it.
struct Product {
  cudaDataType w, x, y;
  int compute;
  cudaDataType scale;  // of alpha and beta
  bool blocks;         // scales of 128 x 128 of W, and of 1 x 128 of x
  int32_t cols, out, x_stride, y_stride;

  auto AsTuple() const {
    return std::make_tuple(w, x, y, compute, blocks, cols, out, x_stride, y_stride);
  }
};

Product ProductOf(const GemmCall& call) {
  const cudaDataType type = call.dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_16F;
  return {type,  type,      CUDA_R_32F, kCompute32F,   CUDA_R_32F,
          false, call.cols, call.out,   call.x_stride, call.y_stride};
}

Product ProductOf(const CodesShape& shape) {
  using Kind = CodesShape::Kind;
  if (shape.kind == Kind::kInt8) {
    return {CUDA_R_8I, CUDA_R_8I,  CUDA_R_32I, kCompute32I, CUDA_R_32I,
            false,     shape.cols, shape.out,  shape.cols,  shape.out};
  }
  return {IsE5m2(shape.kind) ? CUDA_R_8F_E5M2 : CUDA_R_8F_E4M3,
          CUDA_R_8F_E4M3,
          CUDA_R_32F,
          kCompute32F,
          CUDA_R_32F,
          HasBlocks(shape.kind),
          shape.cols,
          shape.out,
          shape.cols,
          shape.out};
}

// Column-major as cuBLASLt sees it: y^T [out, rows] = W [out, cols] * x^T [cols, rows].
struct Problem {
  Problem(const Api& api, const Product& product, int32_t rows) : api(api) {
    const auto cols = static_cast<uint64_t>(product.cols), out = static_cast<uint64_t>(product.out);
    const auto n = static_cast<uint64_t>(rows);
    ok = api.operation_create(&operation, product.compute, product.scale) == kSuccess &&
         Set(kOperationTransA, kTransposed) &&
         api.layout_create(&w, product.w, cols, out, product.cols) == kSuccess &&
         api.layout_create(&x, product.x, cols, n, product.x_stride) == kSuccess &&
         api.layout_create(&y, product.y, out, n, product.y_stride) == kSuccess &&
         (!product.blocks || (Set(kOperationScaleModeA, kScaleBlock128x128) &&
                              Set(kOperationScaleModeB, kScaleVector128)));
  }
  Problem(const Problem&) = delete;
  ~Problem() {
    for (const Layout layout : {w, x, y}) {
      if (layout != nullptr) api.layout_destroy(layout);
    }
    if (operation != nullptr) api.operation_destroy(operation);
  }
  template <class T>
  bool Set(int attribute, const T& value) {
    return api.operation_set(operation, attribute, &value, sizeof value) == kSuccess;
  }
  bool SetScales(const void* of_w, const void* of_x) {
    return Set(kOperationScalePointerA, of_w) && Set(kOperationScalePointerB, of_x);
  }
  const Api& api;
  Operation operation = nullptr;
  Layout w = nullptr, x = nullptr, y = nullptr;
  bool ok = false;
};

class CublasLtGemm : public Gemm {
 public:
  CublasLtGemm(const Api& api, Handle handle, int32_t major, int32_t minor)
      : api_(api), handle_(handle), major_(major), minor_(minor) {}
  ~CublasLtGemm() override {
    api_.destroy(handle_);
    if (some_scale_ != nullptr) cudaFree(some_scale_);
  }

  std::string name() const override {
    const size_t version = api_.version();
    return absl::StrCat("cuBLASLt ", version / 10000, ".", version / 100 % 100, ".", version % 100);
  }

  cudaError_t Run(const GemmCall& call, cudaStream_t stream) override {
    const Product product = ProductOf(call);
    Problem problem(api_, product, call.rows);
    const float one = 1, zero = 0;
    return Multiply(product, problem, call.rows, &one, &zero, call.w, call.x, call.y, stream);
  }

  bool Multiplies(const CodesShape& shape) override {
    return HasUnitsFor(shape.kind, major_, minor_) && HasWholeTiles(shape) &&
           AlgorithmFor(ProductOf(shape), kGemmRows) != nullptr;
  }

  cudaError_t RunCodes(const CodesCall& call, cudaStream_t stream) override {
    const Product product = ProductOf(call.shape);
    Problem problem(api_, product, call.rows);
    problem.ok = problem.ok && (!product.blocks || problem.SetScales(call.w_scales, call.x_scales));
    if (product.scale == CUDA_R_32I) {
      const int32_t one = 1, zero = 0;
      return Multiply(product, problem, call.rows, &one, &zero, call.w, call.x, call.y, stream);
    }
    const float one = 1, zero = 0;
    return Multiply(product, problem, call.rows, &one, &zero, call.w, call.x, call.y, stream);
  }

 private:
  cudaError_t Multiply(const Product& product, const Problem& problem, int32_t rows,
                       const void* one, const void* zero, const void* w, const void* x, void* y,
                       cudaStream_t stream) {
    const Algorithm* algorithm = AlgorithmFor(product, AlgorithmRows(rows));
    // What it knows nothing for, it does as it does few rows.
    if (algorithm == nullptr && rows > kGemmRows) algorithm = AlgorithmFor(product, kGemmRows);
    if (algorithm == nullptr || !problem.ok) return cudaErrorNotSupported;
    const Status status =
        api_.multiply(handle_, problem.operation, one, w, problem.w, x, problem.x, zero, y,
                      problem.y, y, problem.y, algorithm, nullptr, 0, stream);
    return status == kSuccess ? cudaSuccess : cudaErrorUnknown;
  }

  // Chosen for that many rows; null when cuBLASLt knows none.
  const Algorithm* AlgorithmFor(const Product& product, int32_t rows) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto key = std::make_pair(product.AsTuple(), rows);
    const auto known = algorithms_.find(key);
    if (known != algorithms_.end()) return &known->second;
    Problem problem(api_, product, rows);
    Preference preference = nullptr;
    if (!problem.ok || !HasScales(problem, product) ||
        api_.preference_create(&preference) != kSuccess) {
      return nullptr;
    }
    Heuristic found = {};
    int num_found = 0;
    const bool ok = Prefer(preference) &&
                    api_.choose(handle_, problem.operation, problem.w, problem.x, problem.y,
                                problem.y, preference, 1, &found, &num_found) == kSuccess &&
                    num_found == 1 && found.state == kSuccess;
    api_.preference_destroy(preference);
    return ok ? &algorithms_.emplace(key, found.algorithm).first->second : nullptr;
  }

  // cuBLASLt chooses for scales of blocks only where it is told where they lie.
  bool HasScales(Problem& problem, const Product& product) {
    if (!product.blocks) return true;
    if (some_scale_ == nullptr && cudaMalloc(&some_scale_, kAlignment) != cudaSuccess) return false;
    return problem.SetScales(some_scale_, some_scale_);
  }

  bool Prefer(Preference preference) const {
    const auto set = [&](int attribute, const auto& value) {
      return api_.preference_set(preference, attribute, &value, sizeof value) == kSuccess;
    };
    bool ok = set(kPreferenceWorkspace, uint64_t{0}) && set(kPreferenceReductions, kNoReduction);
    for (const int of_operand : kPreferenceAlignments) ok = ok && set(of_operand, kAlignment);
    return ok;
  }

  const Api api_;
  const Handle handle_;
  const int32_t major_, minor_;  // compute capability
  std::mutex mutex_;
  void* some_scale_ = nullptr;  // guarded; on the device, read by nobody
  using Key = std::pair<decltype(std::declval<Product>().AsTuple()), int32_t>;  // and rows
  std::map<Key, Algorithm> algorithms_;                                         // guarded
};

struct Library {
  Api api;
  Handle handle = nullptr;
};

absl::StatusOr<Library> Start(const char* name) {
  void* const library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::NotFoundError(absl::StrCat(name, " was not found"));
  Library started = {};
  if (const absl::Status status = Load(library, started.api); !status.ok()) return status;
  if (const Status status = started.api.create(&started.handle); status != kSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " does not start, its status is ", status));
  }
  return started;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Gemm>> MakeGemm(int32_t major, int32_t minor) {
  std::vector<std::string> failures;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    const absl::StatusOr<Library> started = Start(name);
    if (started.ok()) {
      return std::make_unique<CublasLtGemm>(started->api, started->handle, major, minor);
    }
    failures.emplace_back(started.status().message());
  }
  return absl::FailedPreconditionError(
      absl::StrCat(absl::StrJoin(failures, "; "),
                   "; install cuBLAS of CUDA 12 or 13, or set LD_LIBRARY_PATH to where it is"));
}

}  // namespace nibble::cuda
