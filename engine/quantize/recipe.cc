#include "engine/quantize/recipe.h"

#include <algorithm>
#include <initializer_list>
#include <map>
#include <regex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/ggml/encode.h"
#include "engine/weights/ggml_types.h"

namespace nibble {
namespace {

using Type = GgmlType;

struct MixRow {
  Mix mix;
  const char* name;
  uint32_t file_type;
  Type base;
};

constexpr MixRow kMixes[] = {
    {Mix::kF32, "f32", 0, Type::kF32},           {Mix::kF16, "f16", 1, Type::kF16},
    {Mix::kBF16, "bf16", 32, Type::kBF16},       {Mix::kQ4_0, "q4_0", 2, Type::kQ4_0},
    {Mix::kQ4_1, "q4_1", 3, Type::kQ4_1},        {Mix::kQ5_0, "q5_0", 8, Type::kQ5_0},
    {Mix::kQ5_1, "q5_1", 9, Type::kQ5_1},        {Mix::kQ8_0, "q8_0", 7, Type::kQ8_0},
    {Mix::kQ2_K, "q2_k", 10, Type::kQ2_K},       {Mix::kQ2_K_S, "q2_k_s", 21, Type::kQ2_K},
    {Mix::kQ3_K_S, "q3_k_s", 11, Type::kQ3_K},   {Mix::kQ3_K_M, "q3_k_m", 12, Type::kQ3_K},
    {Mix::kQ3_K_L, "q3_k_l", 13, Type::kQ3_K},   {Mix::kQ4_K_S, "q4_k_s", 14, Type::kQ4_K},
    {Mix::kQ4_K_M, "q4_k_m", 15, Type::kQ4_K},   {Mix::kQ5_K_S, "q5_k_s", 16, Type::kQ5_K},
    {Mix::kQ5_K_M, "q5_k_m", 17, Type::kQ5_K},   {Mix::kQ6_K, "q6_k", 18, Type::kQ6_K},
    {Mix::kIQ4_NL, "iq4_nl", 25, Type::kIQ4_NL}, {Mix::kIQ4_XS, "iq4_xs", 30, Type::kIQ4_XS},
    {Mix::kMXFP4, "mxfp4", 38, Type::kMXFP4},
};

enum class Role { kOutput, kEmbedding, kAttnQkv, kAttnV, kAttnOutput, kFfnDown, kOther };

Role RoleOf(absl::string_view name) {
  if (name == "output.weight") return Role::kOutput;
  if (name == "token_embd.weight") return Role::kEmbedding;
  if (absl::StrContains(name, "attn_qkv.weight")) return Role::kAttnQkv;
  if (absl::StrContains(name, "attn_v.weight")) return Role::kAttnV;
  if (absl::StrContains(name, "attn_output.weight")) return Role::kAttnOutput;
  return absl::StrContains(name, "ffn_down") ? Role::kFfnDown : Role::kOther;
}

bool IsQuantizable(const SourceTensor& tensor) {
  return tensor.dims.size() >= 2 && absl::EndsWith(tensor.name, "weight") &&
         !absl::StrContains(tensor.name, "_norm.weight") &&
         !absl::StrContains(tensor.name, "ffn_gate_inp.weight");
}

bool IsPlain(Type type) { return type == Type::kF32 || type == Type::kF16 || type == Type::kBF16; }

// The first and last eighth of the layers, and every third between.
bool UsesMoreBits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

// N of "blk.N....", -1 of other names.
int LayerOf(absl::string_view name) {
  int layer = -1;
  if (!absl::ConsumePrefix(&name, "blk.")) return layer;
  return absl::SimpleAtoi(name.substr(0, name.find('.')), &layer) ? layer : -1;
}

// What number each tensor of `roles` has among them, in the order of layers: a file whose table is
// in the order of names has blk.10 before blk.2.
std::map<std::string, int> NumberByLayer(const SourceTensors& source,
                                         std::initializer_list<Role> roles) {
  std::vector<std::pair<int, std::string>> found;
  for (const SourceTensor& tensor : source.tensors()) {
    const Role role = RoleOf(tensor.name);
    if (!IsQuantizable(tensor) || std::find(roles.begin(), roles.end(), role) == roles.end()) {
      continue;
    }
    found.emplace_back(LayerOf(tensor.name), tensor.name);
  }
  std::sort(found.begin(), found.end());
  std::map<std::string, int> numbers;
  for (auto& [layer, name] : found) {
    const auto number = static_cast<int>(numbers.size());
    numbers.emplace(std::move(name), number);
  }
  return numbers;
}

// The mixes' rules, tensor by tensor: the n-th of a role in the order of layers is taken for layer
// n (not every layer of every architecture has one).
class MixRules {
 public:
  MixRules(const SourceTensors& source, const RecipeOptions& options)
      : options_(options),
        values_(NumberByLayer(source, {Role::kAttnV, Role::kAttnQkv})),
        downs_(NumberByLayer(source, {Role::kFfnDown})),
        num_values_(static_cast<int>(values_.size())),
        num_downs_(static_cast<int>(downs_.size())) {
    for (const SourceTensor& tensor : source.tensors()) {
      tied_ &= RoleOf(tensor.name) != Role::kOutput;
    }
    const auto [layers, heads, kv_heads] = source.counts();
    shared_values_ = kv_heads > 0 && heads / kv_heads >= 4;
    is_70b_ = layers == 80 && heads != kv_heads;
  }

  // REQUIRES IsQuantizable.
  Type TypeFor(const SourceTensor& tensor) const {
    const Type base = options_.mix.base;
    if (IsPlain(base) || options_.pure) return base;
    switch (RoleOf(tensor.name)) {
      case Role::kOutput:
        return OutputType(tensor);
      case Role::kEmbedding:
        return tied_ ? OutputType(tensor) : base;
      case Role::kAttnV:
      case Role::kAttnQkv:
        return ValueType(values_.at(tensor.name));
      case Role::kFfnDown:
        return DownType(downs_.at(tensor.name));
      case Role::kAttnOutput:
        return AttnOutputType();
      case Role::kOther:
        return base;
    }
    return base;
  }

 private:
  Type OutputType(const SourceTensor& tensor) const {
    const Type base = options_.mix.base;
    const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(base));
    if (base == Type::kMXFP4 || tensor.dims[0] % info.block_elements != 0) return Type::kQ8_0;
    return base == Type::kQ8_0 ? base : Type::kQ6_K;
  }

  Type ValueType(int layer) const {
    Type type = ValueTypeOfMix(layer);
    if (is_70b_ && (type == Type::kQ3_K || type == Type::kQ4_K)) type = Type::kQ5_K;
    return type;
  }

  Type ValueTypeOfMix(int layer) const {
    const Type base = options_.mix.base;
    switch (options_.mix.mix) {
      case Mix::kQ2_K:
        return shared_values_ ? Type::kQ4_K : Type::kQ3_K;
      case Mix::kQ2_K_S:
        return shared_values_ ? Type::kQ4_K : base;
      case Mix::kQ3_K_M:
        return layer < 2 ? Type::kQ5_K : Type::kQ4_K;
      case Mix::kQ3_K_L:
        return Type::kQ5_K;
      case Mix::kIQ4_NL:
      case Mix::kIQ4_XS:
        return shared_values_ ? Type::kQ5_K : base;
      case Mix::kQ4_K_M:
      case Mix::kQ5_K_M:
        return UsesMoreBits(layer, num_values_) ? Type::kQ6_K : base;
      case Mix::kQ4_K_S:
        return layer < 4 ? Type::kQ5_K : base;
      default:
        return base;
    }
  }

  Type DownType(int layer) const {
    const Type base = options_.mix.base;
    const bool early = layer < num_downs_ / 8;
    switch (options_.mix.mix) {
      case Mix::kQ2_K:
        return Type::kQ3_K;
      case Mix::kQ2_K_S:
        return early ? Type::kQ4_K : base;
      case Mix::kQ3_K_M:
        return layer < num_downs_ / 16 ? Type::kQ5_K : Type::kQ4_K;
      case Mix::kQ3_K_L:
        return Type::kQ5_K;
      case Mix::kQ4_K_M:
      case Mix::kQ5_K_M:
        return UsesMoreBits(layer, num_downs_) ? Type::kQ6_K : base;
      case Mix::kIQ4_NL:
      case Mix::kIQ4_XS:
        return early && !options_.has_importance ? Type::kQ5_K : base;
      case Mix::kQ4_K_S:
        return early ? Type::kQ5_K : base;
      case Mix::kQ4_0:
        return early && options_.has_importance ? Type::kQ4_1 : base;
      case Mix::kQ5_0:
        return early && options_.has_importance ? Type::kQ5_1 : base;
      default:
        return base;
    }
  }

  Type AttnOutputType() const {
    switch (options_.mix.mix) {
      case Mix::kQ2_K:
        return Type::kQ3_K;
      case Mix::kQ3_K_M:
        return Type::kQ4_K;
      case Mix::kQ3_K_L:
        return Type::kQ5_K;
      default:
        return options_.mix.base;
    }
  }

  const RecipeOptions& options_;
  const std::map<std::string, int> values_, downs_;  // numbers by name
  const int num_values_, num_downs_;
  bool tied_ = true;
  bool shared_values_ = false;  // four or more heads share a key and value head
  bool is_70b_ = false;         // whose value matrices are small: more bits cost little
};

// What stands in where rows are no multiple of a type's block.
Type Narrower(Type type) {
  switch (type) {
    case Type::kQ2_K:
    case Type::kQ3_K:
      return Type::kQ4_0;
    case Type::kQ4_K:
      return Type::kQ5_0;
    case Type::kQ5_K:
      return Type::kQ5_1;
    case Type::kQ6_K:
      return Type::kQ8_0;
    case Type::kIQ4_XS:
      return Type::kIQ4_NL;
    default:
      return Type::kF16;
  }
}

bool Fits(Type type, int64_t row) {
  return row % TypeInfo(static_cast<int32_t>(type)).block_elements == 0;
}

void FallBack(TensorRecipe& recipe) {
  const Type wanted = recipe.target;
  const int64_t row = recipe.dims[0];
  if (Fits(wanted, row)) return;
  recipe.target = Fits(Narrower(wanted), row) ? Narrower(wanted) : Type::kF16;
  recipe.note = absl::StrCat("rows of ", row, " are no multiple of ",
                             TypeInfo(static_cast<int32_t>(wanted)).block_elements, ": ",
                             NameOf(recipe.target), " for ", NameOf(wanted));
}

struct Override {
  std::regex pattern;
  Type type;
  bool found = false;  // in the name of a tensor to quantize
};

absl::StatusOr<std::vector<Override>> Compile(const std::vector<TypeOverride>& overrides) {
  std::vector<Override> compiled;
  for (const TypeOverride& entry : overrides) {
    try {
      compiled.push_back({.pattern = std::regex(entry.pattern), .type = entry.type});
    } catch (const std::regex_error& error) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", entry.pattern, "\" is no regular expression: ", error.what()));
    }
  }
  return compiled;
}

// The first that is found in the name, or null.
const Override* FirstFound(const std::string& name, std::vector<Override>& overrides) {
  const Override* first = nullptr;
  for (Override& entry : overrides) {
    if (first != nullptr && entry.found) continue;
    if (!std::regex_search(name, entry.pattern)) continue;
    entry.found = true;
    if (first == nullptr) first = &entry;
  }
  return first;
}

}  // namespace

std::vector<std::string> MixNames() {
  std::vector<std::string> names;
  for (const MixRow& row : kMixes) names.emplace_back(row.name);
  return names;
}

absl::StatusOr<MixInfo> ParseMix(absl::string_view name) {
  std::string wanted = absl::AsciiStrToLower(name);
  if (wanted == "q3_k" || wanted == "q4_k" || wanted == "q5_k") wanted += "_m";
  for (const MixRow& row : kMixes) {
    if (wanted == row.name) return MixInfo{row.mix, row.name, row.file_type, row.base};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("found \"", name, "\", needed one of ", absl::StrJoin(MixNames(), ", ")));
}

absl::StatusOr<GgmlType> ParseEncodableType(absl::string_view name) {
  std::vector<std::string> known;
  for (int32_t id = 0; id < 64; ++id) {
    const GgmlTypeInfo info = TypeInfo(id);
    if (info.block_bytes == 0 || !CanEncode(static_cast<GgmlType>(id))) continue;
    if (absl::EqualsIgnoreCase(info.name, name)) return static_cast<GgmlType>(id);
    known.push_back(absl::AsciiStrToLower(info.name));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("found \"", name, "\", needed one of ", absl::StrJoin(known, ", ")));
}

std::string NameOf(GgmlType type) { return TypeInfo(static_cast<int32_t>(type)).name; }

absl::StatusOr<std::vector<TensorRecipe>> PlanTypes(const SourceTensors& source,
                                                    const RecipeOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(std::vector<Override> overrides, Compile(options.overrides));
  const MixRules rules(source, options);
  std::vector<TensorRecipe> recipes;
  for (const SourceTensor& tensor : source.tensors()) {
    TensorRecipe recipe;
    recipe.name = tensor.name;
    recipe.dims = tensor.dims;
    recipe.quantized = tensor.quantized;
    recipe.source = recipe.target = static_cast<GgmlType>(tensor.ggml_type);
    recipe.quantizable = IsQuantizable(tensor);
    if (recipe.quantizable) {
      recipe.target = rules.TypeFor(tensor);
      const Override* const found = FirstFound(tensor.name, overrides);
      if (found != nullptr) recipe.target = found->type;
      FallBack(recipe);
    }
    recipe.copied = recipe.target == recipe.source;
    const GgmlTypeInfo info = TypeInfo(tensor.ggml_type);
    if (!recipe.copied && !info.readable) {
      return absl::UnimplementedError(absl::StrCat(source.name(), ": tensor '", tensor.name,
                                                   "' is of type ", info.name,
                                                   ", which this program does not read"));
    }
    recipes.push_back(std::move(recipe));
  }
  for (size_t i = 0; i < overrides.size(); ++i) {
    if (overrides[i].found) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("\"", options.overrides[i].pattern, "\" is found in no name of a tensor of ",
                     source.name(), " that is quantized; vectors and norms are copied"));
  }
  return recipes;
}

bool SourceIsQuantized(const std::vector<TensorRecipe>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const TensorRecipe& tensor) { return !tensor.copied && tensor.quantized; });
}

}  // namespace nibble
