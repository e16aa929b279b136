// What cublaslt_gemm.cc writes down of cuBLASLt, whose library it loads and whose headers it is
// built without, against NVIDIA's own headers. Compiled, never linked: that it compiles is the
// test. Constants and sizes are asserted in that file, where it sees the headers; functions and
// fields here.
#include <cublasLt.h>

#include <cstddef>
#include <type_traits>

#include "kernels/cuda/cublaslt_gemm.cc"

namespace nibble::cuda {
namespace {

// Whether a value is passed, and read, the same way as both types: a pointer as a pointer to what
// is as large (handles point to what only the library knows), an enumerator as an integer of its
// size, anything else as itself.
template <class Ours, class Theirs>
constexpr bool PassedAlike() {
  if constexpr (std::is_same_v<Ours, Theirs>) {
    return true;
  } else if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using From = std::remove_pointer_t<Ours>;
    using To = std::remove_pointer_t<Theirs>;
    if constexpr (std::is_const_v<From> != std::is_const_v<To>) {
      return false;
    } else if constexpr (std::is_void_v<From> || std::is_void_v<To>) {
      return true;
    } else {
      return sizeof(From) == sizeof(To);
    }
  } else {
    return std::is_enum_v<Theirs> && std::is_integral_v<Ours> && sizeof(Ours) == sizeof(Theirs);
  }
}

template <class Ours, class Theirs>
struct Alike : std::false_type {};
template <class Result, class... Args, class TheirResult, class... TheirArgs>
  requires(sizeof...(Args) == sizeof...(TheirArgs))
struct Alike<Result (*)(Args...), TheirResult (*)(TheirArgs...)>
    : std::bool_constant<PassedAlike<Result, TheirResult>() &&
                         (PassedAlike<Args, TheirArgs>() && ...)> {};

static_assert(Alike<decltype(Api::create), decltype(&cublasLtCreate)>());
static_assert(Alike<decltype(Api::destroy), decltype(&cublasLtDestroy)>());
static_assert(Alike<decltype(Api::version), decltype(&cublasLtGetVersion)>());
static_assert(Alike<decltype(Api::operation_create), decltype(&cublasLtMatmulDescCreate)>());
static_assert(Alike<decltype(Api::operation_set), decltype(&cublasLtMatmulDescSetAttribute)>());
static_assert(Alike<decltype(Api::operation_destroy), decltype(&cublasLtMatmulDescDestroy)>());
static_assert(Alike<decltype(Api::layout_create), decltype(&cublasLtMatrixLayoutCreate)>());
static_assert(Alike<decltype(Api::layout_destroy), decltype(&cublasLtMatrixLayoutDestroy)>());
static_assert(Alike<decltype(Api::preference_create), decltype(&cublasLtMatmulPreferenceCreate)>());
static_assert(
    Alike<decltype(Api::preference_set), decltype(&cublasLtMatmulPreferenceSetAttribute)>());
static_assert(
    Alike<decltype(Api::preference_destroy), decltype(&cublasLtMatmulPreferenceDestroy)>());
static_assert(Alike<decltype(Api::choose), decltype(&cublasLtMatmulAlgoGetHeuristic)>());
static_assert(Alike<decltype(Api::multiply), decltype(&cublasLtMatmul)>());
// All of Api's: a function added there is to be added here.
static_assert(sizeof(Api) == 13 * sizeof(void (*)()));

using Found = cublasLtMatmulHeuristicResult_t;
static_assert(offsetof(Heuristic, algorithm) == offsetof(Found, algo));
static_assert(offsetof(Heuristic, workspace_bytes) == offsetof(Found, workspaceSize));
static_assert(offsetof(Heuristic, state) == offsetof(Found, state));
static_assert(offsetof(Heuristic, waves) == offsetof(Found, wavesCount));
static_assert(alignof(Heuristic) == alignof(Found) && alignof(Algorithm) == 8);
static_assert(PassedAlike<decltype(Heuristic::workspace_bytes), decltype(Found::workspaceSize)>());
static_assert(PassedAlike<decltype(Heuristic::state), decltype(Found::state)>());
static_assert(PassedAlike<decltype(Heuristic::waves), decltype(Found::wavesCount)>());

// What would be wrong is found: arguments that changed places, one too few, another width, a
// pointer to something else.
using Create = cublasStatus_t (*)(cublasLtMatrixLayout_t*, cudaDataType, uint64_t, uint64_t,
                                  int64_t);
static_assert(Alike<Status (*)(Layout*, cudaDataType, uint64_t, uint64_t, int64_t), Create>());
static_assert(!Alike<Status (*)(Layout*, uint64_t, cudaDataType, uint64_t, int64_t), Create>());
static_assert(!Alike<Status (*)(Layout*, cudaDataType, uint64_t, uint64_t), Create>());
static_assert(!Alike<Status (*)(Layout*, cudaDataType, uint64_t, int32_t, int64_t), Create>());
static_assert(!Alike<int64_t (*)(Layout*, cudaDataType, uint64_t, uint64_t, int64_t), Create>());
static_assert(!Alike<Status (*)(char*, cudaDataType, uint64_t, uint64_t, int64_t), Create>());

}  // namespace
}  // namespace nibble::cuda
