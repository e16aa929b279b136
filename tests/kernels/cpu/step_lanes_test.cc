// Whole steps of a small decoder through Backend::RunStep: in lanes, bit for bit what its ops give
// one after the other.
#include "kernels/cpu/step_lanes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/kernels/cpu/op_fixture.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {
namespace {

constexpr int32_t kLayers = 3, kHeads = 4, kKvHeads = 2, kHeadDim = 16, kHidden = 64, kFfn = 96;
constexpr int32_t kVocab = 200, kMaxRows = 200, kMaxContext = 512, kSequences = 48;
constexpr int32_t kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;

// `tokens` more of a sequence that has `before` already.
struct Work {
  int32_t sequence, before, tokens;
};

class Decoder {
 public:
  Decoder(CpuIsa isa, int32_t num_threads, DType cache_type, int32_t block_size)
      : backend_(MakeBackend(isa, num_threads)), block_size_(block_size) {
    uint32_t seed = 1;
    const auto pack = [&](int32_t rows, int32_t cols) {
      quant::RandomSpec spec;
      spec.format = quant::Format::kInt4Affine;
      spec.rows = rows;
      spec.cols = cols;
      spec.group = 32;
      return backend_->Pack(quant::RandomMatrix(spec, seed++)).value();
    };
    embedding_ = pack(kVocab, kHidden);
    max_blocks_ = kMaxContext / block_size;
    for (Layer& layer : layers_) {
      layer.q = pack(kHeads * kHeadDim, kHidden);
      layer.k = pack(kKvHeads * kHeadDim, kHidden);
      layer.v = pack(kKvHeads * kHeadDim, kHidden);
      layer.o = pack(kHidden, kHeads * kHeadDim);
      layer.gate = pack(kFfn, kHidden);
      layer.up = pack(kFfn, kHidden);
      layer.down = pack(kHidden, kFfn);
      layer.cache = {.dtype = cache_type,
                     .num_blocks = kSequences * max_blocks_,
                     .block_size = block_size,
                     .num_kv_heads = kKvHeads,
                     .head_dim = kHeadDim};
      const int64_t bytes = int64_t{layer.cache.num_blocks} * kKvHeads *
                            KvHeadBytes(cache_type, block_size, kHeadDim);
      layer.k_memory = backend_->Allocate(bytes, "k").value();
      layer.v_memory = backend_->Allocate(bytes, "v").value();
      layer.cache.k = layer.k_memory.data();
      layer.cache.v = layer.v_memory.data();
    }
    std::mt19937 random(3);
    cos_sin_ = RandomFloats(random, kMaxContext * kHeadDim);
    norm_ = RandomFloats(random, kHidden);
  }

  Backend& backend() { return *backend_; }
  int64_t layers_run() const { return layers_run_; }

  // Logits of each sequence's last token, then the ids drawn. `as_step`: in RunStep.
  std::vector<float> Run(const std::vector<Work>& work, bool as_step) {
    Fill(work);
    if (as_step) {
      backend_->RunStep(StepKey{}, [&] { CallOps(); });
    } else {
      CallOps();
    }
    EXPECT_TRUE(backend_->Synchronize().ok());
    std::vector<float> results(logits_.begin(), logits_.begin() + last_.size() * kVocab);
    for (const SampledToken& token : drawn_) results.push_back(static_cast<float>(token.id));
    return results;
  }

  // A NaN in the norm makes every logit one.
  void Break() { norm_[0] = std::numeric_limits<float>::quiet_NaN(); }

  void CallOps() {
    const int32_t n = static_cast<int32_t>(ids_.size());
    const Tensor hidden = RowsOf(hidden_, n, kHidden);
    backend_->Embed({.table = embedding_.get(), .ids = ids_.data(), .out = hidden});
    for (Layer& layer : layers_) {
      CallLayer(layer, hidden);
      backend_->CountLayer(layers_run_);
    }
    const int32_t num_last = static_cast<int32_t>(last_.size());
    const Tensor gathered = RowsOf(gathered_, num_last, kHidden);
    const Tensor logits = RowsOf(logits_, num_last, kVocab);
    backend_->GatherRows({.x = hidden, .rows = last_.data(), .out = gathered});
    Linear(gathered, {embedding_.get()}, logits, /*norm=*/true);
    backend_->Sample({.logits = logits, .rows = sample_rows_, .out = drawn_.data()});
  }

 private:
  struct Layer {
    std::unique_ptr<PackedMatrix> q, k, v, o, gate, up, down;
    DeviceBuffer k_memory, v_memory;
    KvLayer cache;
  };

  void Fill(const std::vector<Work>& work) {
    ids_.clear();
    positions_.clear();
    slots_.clear();
    contexts_.clear();
    tables_.clear();
    last_.clear();
    cu_seqlens_ = {0};
    for (const Work& each : work) {
      for (int32_t p = each.before; p < each.before + each.tokens; ++p) {
        ids_.push_back((each.sequence * 31 + p * 7) % kVocab);
        positions_.push_back(p);
        slots_.push_back(Block(each.sequence, p / block_size_) * block_size_ + p % block_size_);
      }
      cu_seqlens_.push_back(static_cast<int32_t>(ids_.size()));
      contexts_.push_back(each.before + each.tokens);
      for (int32_t b = 0; b < max_blocks_; ++b) tables_.push_back(Block(each.sequence, b));
      last_.push_back(static_cast<int32_t>(ids_.size()) - 1);
    }
    ASSERT_LE(ids_.size(), size_t{kMaxRows});
    sample_rows_.assign(work.size(), {});
    for (size_t i = 0; i < work.size(); ++i) {
      sample_rows_[i].logits_row = static_cast<int32_t>(i);
      sample_rows_[i].temperature = 0.8f;
      sample_rows_[i].seed = i;
    }
    drawn_.assign(work.size(), {});
  }
  // Any place but the next one.
  int32_t Block(int32_t sequence, int32_t b) const { return b * kSequences + sequence; }

  // The list of weights does not outlive the call, as in the engine.
  void Linear(const Tensor& x, std::vector<const PackedMatrix*> weights, const Tensor& y, bool norm,
              bool accumulate = false, bool gated = false) {
    LinearParams params;
    params.x = x;
    params.norm_weight = norm ? norm_.data() : nullptr;
    params.norm_epsilon = 1e-5f;
    params.weights = weights;
    params.y = y;
    params.accumulate = accumulate;
    params.gated = gated;
    backend_->Linear(params);
  }

  void CallLayer(Layer& layer, const Tensor& hidden) {
    const int32_t n = hidden.rows;
    const Tensor qkv = RowsOf(qkv_, n, kQkv);
    const Tensor attended = RowsOf(attended_, n, kHeads * kHeadDim);
    const Tensor activated = RowsOf(activated_, n, kFfn);
    Linear(hidden, {layer.q.get(), layer.k.get(), layer.v.get()}, qkv, /*norm=*/true);
    RopeStoreKvParams rope;
    rope.qkv = qkv;
    rope.num_heads = kHeads;
    rope.rotary_dim = kHeadDim;
    rope.cos_sin = cos_sin_.data();
    rope.positions = positions_.data();
    rope.slots = slots_.data();
    rope.cache = layer.cache;
    backend_->RopeStoreKv(rope);
    AttentionParams attention;
    attention.q = qkv;
    attention.q.cols = kHeads * kHeadDim;
    attention.num_heads = kHeads;
    attention.cache = layer.cache;
    attention.num_seqs = static_cast<int32_t>(contexts_.size());
    attention.max_blocks = max_blocks_;
    attention.cu_seqlens_q = cu_seqlens_.data();
    attention.context_lens = contexts_.data();
    attention.block_table = tables_.data();
    attention.scale = 0.25f;
    attention.out = attended;
    backend_->Attention(attention);
    Linear(attended, {layer.o.get()}, hidden, /*norm=*/false, /*accumulate=*/true);
    Linear(hidden, {layer.gate.get(), layer.up.get()}, activated, /*norm=*/true, false, true);
    Linear(activated, {layer.down.get()}, hidden, /*norm=*/false, /*accumulate=*/true);
  }

  std::unique_ptr<Backend> backend_;
  const int32_t block_size_;
  int32_t max_blocks_ = 0;
  std::unique_ptr<PackedMatrix> embedding_;
  std::array<Layer, kLayers> layers_;
  std::vector<float> cos_sin_, norm_;
  std::vector<float> hidden_ = std::vector<float>(kMaxRows * kHidden);
  std::vector<float> qkv_ = std::vector<float>(kMaxRows * kQkv);
  std::vector<float> attended_ = std::vector<float>(kMaxRows * kHeads * kHeadDim);
  std::vector<float> activated_ = std::vector<float>(kMaxRows * kFfn);
  std::vector<float> gathered_ = std::vector<float>(kMaxRows * kHidden);
  std::vector<float> logits_ = std::vector<float>(kMaxRows * kVocab);
  std::vector<int32_t> ids_, positions_, slots_, cu_seqlens_, contexts_, tables_, last_;
  std::vector<SampleRow> sample_rows_;
  std::vector<SampledToken> drawn_;
  std::atomic<int64_t> layers_run_{0};
};

// Prompts that are cut into chunks, inside a block too, then decoded together: every kind of step.
std::vector<std::vector<Work>> Steps() {
  std::vector<std::vector<Work>> steps = {
      {{0, 0, 200}},                            // one prompt
      {{0, 200, 37}, {1, 0, 131}},              // its end, and another
      {{0, 237, 1}, {1, 131, 1}, {2, 0, 160}},  // with rows that decode
      {{3, 0, 13}, {4, 0, 70}, {5, 0, 90}},     // several
      {{0, 238, 1}, {4, 70, 1}, {5, 90, 1}},    // few rows
  };
  std::vector<Work> first, decode;
  for (int32_t s = 6; s < kSequences; ++s) first.push_back({s, 0, 1 + s % 7});
  for (int32_t s = 6; s < kSequences; ++s) decode.push_back({s, 1 + s % 7, 1});
  decode.push_back({1, 132, 1});
  steps.push_back(first);
  steps.push_back(decode);
  return steps;
}

class StepLanesTest : public testing::TestWithParam<CpuIsa> {};

TEST_P(StepLanesTest, AStepIsItsOpsOneAfterTheOther) {
  for (const auto& [cache, block_size] : {std::pair{DType::kF16, 8}, {DType::kI8, 32}}) {
    Decoder alone(GetParam(), 1, cache, block_size), two(GetParam(), 2, cache, block_size),
        three(GetParam(), 3, cache, block_size);
    int number = 0;
    for (const std::vector<Work>& work : Steps()) {
      const std::vector<float> expected = alone.Run(work, /*as_step=*/false);
      for (Decoder* decoder : {&two, &three}) {
        const std::vector<float> got = decoder->Run(work, /*as_step=*/true);
        ASSERT_EQ(got.size(), expected.size());
        EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
            << "step " << number << ", threads " << decoder->backend().Info().num_threads
            << ", block size " << block_size;
      }
      ++number;
    }
  }
}

TEST_P(StepLanesTest, CountsEveryLayerOnce) {
  Decoder decoder(GetParam(), 2, DType::kF16, 32);
  int64_t counted = 0;
  for (const std::vector<Work>& work : Steps()) {
    decoder.Run(work, /*as_step=*/true);
    EXPECT_EQ(decoder.layers_run(), counted += kLayers);
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, StepLanesTest, testing::ValuesIn(AvailableIsas()), NameOfIsa);

TEST(StepLanesTest, AFaultIsReportedOnceAndNamesItsOp) {
  Decoder decoder(CpuIsa::kAuto, 2, DType::kF16, 32);
  decoder.Run(Steps()[0], /*as_step=*/true);
  decoder.Break();
  decoder.backend().RunStep(StepKey{}, [&] { decoder.CallOps(); });
  const absl::Status status = decoder.backend().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("op 'sample' on cpu"));
  EXPECT_TRUE(decoder.backend().Synchronize().ok());
}

}  // namespace
}  // namespace nibble
