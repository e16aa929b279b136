#include "engine/weights/hf/hf_source.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble {
namespace {

struct Renaming {
  absl::string_view module;
  absl::string_view gguf;
};
constexpr Renaming kOutside[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
constexpr Renaming kInLayer[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"}};

// A name behind `prefix` and the number of a layer.
struct InLayer {
  int32_t layer = 0;
  absl::string_view rest;
};
std::optional<InLayer> InLayerOf(absl::string_view name, absl::string_view prefix) {
  if (!absl::ConsumePrefix(&name, prefix)) return std::nullopt;
  const size_t dot = name.find('.');
  int32_t layer = 0;
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(name.substr(0, dot), &layer) ||
      layer < 0 || absl::StrCat(layer) != name.substr(0, dot)) {
    return std::nullopt;
  }
  return InLayer{layer, name.substr(dot + 1)};
}

// What a quantized layout keeps beside a module's weight; longest first where one ends another.
constexpr absl::string_view kSuffixes[] = {"weight.quant_state.bitsandbytes__nf4",
                                           "weight.quant_state.bitsandbytes__fp4",
                                           "weight.nested_quant_map",
                                           "weight.nested_absmax",
                                           "weight.quant_map",
                                           "weight.absmax",
                                           "weight_zero_point",
                                           "weight_scale_inv",
                                           "weight_packed",
                                           "weight_format",
                                           "weight_g_idx",
                                           "weight_shape",
                                           "weight_scale",
                                           "qweight",
                                           "qzeros",
                                           "scales",
                                           "g_idx",
                                           "weight",
                                           "bias",
                                           "SCB"};
// Scales of activations and of the KV cache, and frequencies computed anew: not used, and no harm.
constexpr absl::string_view kUnused[] = {
    ".input_scale", ".input_zero_point", ".output_scale",       ".output_zero_point",
    ".k_scale",     ".v_scale",          ".rotary_emb.inv_freq"};

bool IsUnused(absl::string_view name) {
  return std::any_of(std::begin(kUnused), std::end(kUnused),
                     [&](absl::string_view end) { return absl::EndsWith(name, end); });
}

// The module a tensor belongs to; empty where its suffix is none.
absl::string_view ModuleOf(absl::string_view name) {
  for (const absl::string_view suffix : kSuffixes) {
    absl::string_view module = name;
    if (absl::ConsumeSuffix(&module, suffix) && absl::ConsumeSuffix(&module, ".")) return module;
  }
  return "";
}

// A matrix, or a vector in f32.
struct Entry {
  std::unique_ptr<LinearLayout> matrix;
  const StoredTensor* vector = nullptr;
  absl::Status status;
  int64_t file_bytes = 0;
};

class FolderSource final : public HfSource {
 public:
  FolderSource(const TensorSet& set, const QuantConfig& config, HfSourceOptions options)
      : set_(set), options_(std::move(options)) {
    std::set<std::string> modules;
    for (const auto& [name, tensor] : set.tensors()) {
      const absl::string_view module = ModuleOf(name);
      if (!module.empty() && GgufNameOf(module).has_value()) {
        modules.emplace(module);
      } else if (!IsUnused(name)) {
        problems_.push_back({name, tensor.Problem(absl::StatusCode::kUnimplemented,
                                                  "has no place in such a decoder")});
      }
    }
    for (const std::string& module : modules) AddModule(ModuleTensors(set, module), config);
    for (const auto& [name, entry] : entries_) {
      if (!entry.status.ok()) problems_.push_back({name, entry.status});
    }
  }

  bool Has(absl::string_view name) const override { return entries_.find(name) != entries_.end(); }

  absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                         RowRange range) const override {
    NIBBLE_ASSIGN_OR_RETURN(const Entry* entry, FindShaped(name, {rows, cols}));
    NIBBLE_CHECK(range.first >= 0 && range.count >= 1 && range.count <= rows - range.first);
    const LinearLayout& matrix = *entry->matrix;
    const int32_t head = IsTurned(name) ? options_.interleave_head_dim : 0;
    if (head == 0) {
      if (range.first % matrix.row_multiple() == 0) return matrix.Load(range.first, range.count);
      return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "': rows from ", range.first,
                                                     ", needed a multiple of ",
                                                     matrix.row_multiple()));
    }
    // Whole heads around the range, then its rows in the other order.
    const int32_t whole = std::max(head, matrix.row_multiple());
    const int32_t begin = range.first / whole * whole;
    const int32_t end = static_cast<int32_t>(
        std::min<int64_t>(rows, (int64_t{range.first} + range.count + head - 1) / head * head));
    NIBBLE_ASSIGN_OR_RETURN(const quant::Matrix halves, matrix.Load(begin, end - begin));
    std::vector<int32_t> order;
    for (int32_t row = range.first; row < range.first + range.count; ++row) {
      order.push_back(HalfRowOf(row, head) - begin);
    }
    absl::StatusOr<quant::Matrix> turned = GatherRows(halves, order);
    if (turned.ok()) return turned;
    return absl::Status(turned.status().code(),
                        absl::StrCat("tensor '", name, "': ", turned.status().message()));
  }

  absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name, int32_t n) const override {
    NIBBLE_ASSIGN_OR_RETURN(const Entry* entry, FindShaped(name, {n}));
    NIBBLE_ASSIGN_OR_RETURN(std::vector<float> values, entry->vector->Floats(0, n));
    const int32_t head = options_.interleave_head_dim;
    if (head == 0 || !IsTurned(name)) return values;
    std::vector<float> turned(values.size());
    for (int32_t row = 0; row < n; ++row) turned[row] = values[HalfRowOf(row, head)];
    return turned;
  }

  std::vector<TensorReport> Report() const override {
    std::vector<TensorReport> reports;
    for (const auto& [name, entry] : entries_) reports.push_back(ReportOf(name, entry));
    return reports;
  }

  // As source_identity.h, over all files: config.json, and of each file its header and a page of
  // each tensor.
  absl::StatusOr<SourceIdentity> Identity() const override {
    constexpr int64_t kSampleBytes = 4096;
    SourceIdentity identity;
    std::string text = options_.config_text;
    std::vector<uint8_t> digests;
    const auto add = [&](absl::Span<const uint8_t> bytes) {
      const Digest digest = Sha256(bytes);
      digests.insert(digests.end(), digest.begin(), digest.end());
    };
    add(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
    for (const SafetensorsFile& file : set_.files()) {
      identity.size_bytes += static_cast<uint64_t>(file.size_bytes());
      NIBBLE_ASSIGN_OR_RETURN(const int64_t modified, file.ModifiedNs());
      identity.modified_ns = std::max(identity.modified_ns, modified);
      add(file.Preamble());
      for (const SafetensorsTensor& tensor : file.tensors()) {
        std::vector<uint8_t> sample(static_cast<size_t>(std::min(kSampleBytes, tensor.size_bytes)));
        NIBBLE_RETURN_IF_ERROR(file.Read(tensor, 0, absl::MakeSpan(sample)));
        add(sample);
      }
    }
    identity.digest = Sha256(digests);
    return identity;
  }

  const std::vector<Problem>& problems() const override { return problems_; }

 private:
  void AddModule(const ModuleTensors& tensors, const QuantConfig& config) {
    const std::string name = *GgufNameOf(tensors.module());
    if (const StoredTensor* bias = tensors.Find("bias"); bias != nullptr) {
      entries_.emplace(name + ".bias", VectorEntry(*bias));
    }
    const StoredTensor* weight = tensors.Find("weight");
    if (weight != nullptr && weight->shape().size() == 1) {
      entries_.emplace(name + ".weight", VectorEntry(*weight));
      return;
    }
    absl::StatusOr<std::unique_ptr<LinearLayout>> layout = OpenLinear(tensors, config);
    Entry entry;
    entry.status = layout.status();
    entry.file_bytes = tensors.TotalBytes();
    if (layout.ok()) entry.matrix = *std::move(layout);
    if (entry.status.ok() && IsTurned(name)) entry.status = CheckTurnable(tensors, *entry.matrix);
    entries_.emplace(name + ".weight", std::move(entry));
  }

  static Entry VectorEntry(const StoredTensor& tensor) {
    Entry entry;
    entry.vector = &tensor;
    entry.file_bytes = tensor.info().size_bytes;
    if (tensor.shape().size() != 1) {
      entry.status = tensor.Problem(absl::StatusCode::kInvalidArgument,
                                    absl::StrCat("is ", tensor.Describe(), ", needed a vector"));
    } else {
      entry.status = tensor.Floats(0, 0).status();  // its type
    }
    return entry;
  }

  absl::Status CheckTurnable(const ModuleTensors& tensors, const LinearLayout& matrix) const {
    const int32_t head = options_.interleave_head_dim;
    if (head == 0) return absl::OkStatus();
    if (matrix.rows() % head != 0) {
      return absl::InvalidArgumentError(absl::StrCat("module '", tensors.module(), "' has ",
                                                     matrix.rows(), " rows, needed whole heads of ",
                                                     head));
    }
    if (matrix.row_multiple() % head == 0 || matrix.row_multiple() == 1) return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat("module '", tensors.module(), "': scales of ",
                                                 matrix.row_multiple(), " rows and heads of ", head,
                                                 " rows do not fit into each other"));
  }

  static bool IsTurned(absl::string_view name) {
    return absl::StrContains(name, ".attn_q") || absl::StrContains(name, ".attn_k");
  }

  static std::vector<int64_t> ShapeOf(const Entry& entry) {
    if (entry.matrix != nullptr) return {entry.matrix->rows(), entry.matrix->cols()};
    if (entry.vector == nullptr) return {};
    return {entry.vector->shape().begin(), entry.vector->shape().end()};
  }

  absl::StatusOr<const Entry*> FindShaped(absl::string_view name,
                                          std::vector<int64_t> shape) const {
    const auto it = entries_.find(name);
    if (it == entries_.end()) {
      return absl::NotFoundError(absl::StrCat("tensor '", name, "' is absent"));
    }
    if (!it->second.status.ok()) return it->second.status;
    if (ShapeOf(it->second) == shape) return &it->second;
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", name, "' is [", absl::StrJoin(ShapeOf(it->second), ", "),
        "], the config needs [", absl::StrJoin(shape, ", "), "]; is the file for another model?"));
  }

  static TensorReport ReportOf(const std::string& name, const Entry& entry) {
    TensorReport report;
    report.name = name;
    report.file_type = "unreadable";
    report.file_bytes = entry.file_bytes;
    report.shape = ShapeOf(entry);
    if (entry.vector != nullptr) report.file_type = std::string(TypeName(entry.vector->type()));
    if (entry.matrix != nullptr) report.file_type = entry.matrix->type();
    if (!entry.status.ok()) return report;
    if (entry.vector != nullptr) {
      report.canonical = "f32";
      report.canonical_bytes = entry.vector->num_elements() * 4;
      report.converted = entry.vector->type() != SafetensorsType::kF32;
      return report;
    }
    report.canonical = CanonicalName(entry.matrix->form());
    report.canonical_bytes = entry.matrix->canonical_bytes();
    report.converted = entry.matrix->form().wider;
    report.form = entry.matrix->form();
    return report;
  }

  const TensorSet& set_;
  const HfSourceOptions options_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::vector<Problem> problems_;
};

}  // namespace

std::optional<std::string> GgufNameOf(absl::string_view module) {
  for (const Renaming& renaming : kOutside) {
    if (module == renaming.module) return std::string(renaming.gguf);
  }
  const std::optional<InLayer> place = InLayerOf(module, "model.layers.");
  if (!place.has_value()) return std::nullopt;
  for (const Renaming& renaming : kInLayer) {
    if (place->rest == renaming.module) {
      return absl::StrCat("blk.", place->layer, ".", renaming.gguf);
    }
  }
  return std::nullopt;
}

std::optional<std::string> HfModuleOf(absl::string_view gguf) {
  for (const Renaming& renaming : kOutside) {
    if (gguf == renaming.gguf) return std::string(renaming.module);
  }
  const std::optional<InLayer> place = InLayerOf(gguf, "blk.");
  if (!place.has_value()) return std::nullopt;
  for (const Renaming& renaming : kInLayer) {
    if (place->rest == renaming.gguf) {
      return absl::StrCat("model.layers.", place->layer, ".", renaming.module);
    }
  }
  return std::nullopt;
}

int32_t HalfRowOf(int32_t row, int32_t head_dim) {
  const int32_t in_head = row % head_dim;
  return row - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
}

std::unique_ptr<HfSource> MakeHfSource(const TensorSet& set, const QuantConfig& config,
                                       HfSourceOptions options) {
  return std::make_unique<FolderSource>(set, config, std::move(options));
}

}  // namespace nibble
