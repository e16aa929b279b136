#include "engine/quantize/recipe.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using Types = std::map<std::string, GgmlType>;

testing::TinyModelOptions Model() {
  testing::TinyModelOptions options;
  options.hidden = 256;
  options.ffn = 512;
  options.layers = 8;
  options.matrix_type = options.embedding_type = GgmlType::kF16;
  return options;
}

struct Parsed {
  explicit Parsed(const testing::TinyModelOptions& options)
      : bytes(testing::TinyModel(options).Build()),
        file(GgufFile::Parse(bytes, "m.gguf").value()) {}
  std::vector<uint8_t> bytes;
  GgufFile file;
};

RecipeOptions MixOf(absl::string_view name) {
  RecipeOptions options;
  options.mix = ParseMix(name).value();
  return options;
}

Types TypesOf(const testing::TinyModelOptions& model, const RecipeOptions& options) {
  const Parsed parsed(model);
  Types types;
  const std::vector<TensorRecipe> recipes =
      PlanTypes(*MakeSourceTensors(parsed.file), options).value();
  for (const TensorRecipe& recipe : recipes) {
    types[recipe.name] = recipe.target;
  }
  return types;
}

std::string Layer(int layer, const std::string& name) {
  return absl::StrCat("blk.", layer, ".", name, ".weight");
}

TEST(Recipe, NamesAreReadInEitherCaseAndTheUnknownListsTheKnown) {
  EXPECT_EQ(ParseMix("Q4_K_M")->name, "q4_k_m");
  EXPECT_EQ(ParseMix("q4_k")->name, "q4_k_m");
  EXPECT_EQ(ParseMix("q4_k_s")->file_type, 14u);
  const absl::Status status = ParseMix("q9_k").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("found \"q9_k\", needed one of f32, f16"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("iq4_xs, mxfp4"));
  EXPECT_EQ(ParseEncodableType("iq4_nl").value(), GgmlType::kIQ4_NL);
  EXPECT_EQ(NameOf(GgmlType::kIQ4_NL), "IQ4_NL");
  EXPECT_FALSE(ParseEncodableType("nvfp4").ok()) << "read, not written";
  EXPECT_FALSE(ParseEncodableType("q4_k_m").ok()) << "a mix, not a type";
}

// The first and last eighth and every third layer between get more bits of value and down.
TEST(Recipe, Q4KmGivesMoreBitsToSomeLayers) {
  const Types types = TypesOf(Model(), MixOf("q4_k_m"));
  for (int layer = 0; layer < 8; ++layer) {
    const bool more = layer == 0 || layer == 3 || layer == 6 || layer == 7;
    const GgmlType expected = more ? GgmlType::kQ6_K : GgmlType::kQ4_K;
    EXPECT_EQ(types.at(Layer(layer, "attn_v")), expected) << layer;
    EXPECT_EQ(types.at(Layer(layer, "ffn_down")), expected) << layer;
    EXPECT_EQ(types.at(Layer(layer, "attn_q")), GgmlType::kQ4_K);
    EXPECT_EQ(types.at(Layer(layer, "attn_norm")), GgmlType::kF32);
  }
  EXPECT_EQ(types.at("token_embd.weight"), GgmlType::kQ6_K) << "it is the head, too";
}

// As a converter leaves it that sorts its table by name: blk.0, blk.1, blk.10, blk.11, blk.2.
TEST(Recipe, TheOrderOfTheFilesTableChangesNoType) {
  testing::TinyModelOptions model = Model();
  model.layers = 12;
  testing::GgufWriter by_name = testing::TinyModel(model);
  std::sort(by_name.tensors.begin(), by_name.tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  const std::vector<uint8_t> bytes = by_name.Build();
  const GgufFile file = GgufFile::Parse(bytes, "m.gguf").value();
  for (const char* mix : {"q2_k_s", "q3_k_m", "q4_k_s", "q4_k_m"}) {
    Types types;
    const auto recipes = PlanTypes(*MakeSourceTensors(file), MixOf(mix)).value();
    for (const TensorRecipe& recipe : recipes) types[recipe.name] = recipe.target;
    EXPECT_EQ(types, TypesOf(model, MixOf(mix))) << mix;
  }
}

// Biases of the down projection are not layers.
TEST(Recipe, OnlyWhatIsQuantizedCountsAsALayer) {
  testing::GgufWriter writer = testing::TinyModel(Model());
  for (int layer = 0; layer < 8; ++layer) {
    writer.Add("blk." + std::to_string(layer) + ".ffn_down.bias", {256}, GgmlType::kF32,
               std::vector<uint8_t>(256 * 4));
  }
  const std::vector<uint8_t> bytes = writer.Build();
  const GgufFile file = GgufFile::Parse(bytes, "m.gguf").value();
  const Types wanted = TypesOf(Model(), MixOf("q4_k_m"));
  const auto recipes = PlanTypes(*MakeSourceTensors(file), MixOf("q4_k_m")).value();
  for (const TensorRecipe& recipe : recipes) {
    if (wanted.count(recipe.name) != 0) {
      EXPECT_EQ(recipe.target, wanted.at(recipe.name)) << recipe.name;
    }
  }
}

TEST(Recipe, ASeparateHeadGetsTheBitsTheEmbeddingThenLacks) {
  testing::TinyModelOptions model = Model();
  model.tied_head = false;
  const Types types = TypesOf(model, MixOf("q4_k_m"));
  EXPECT_EQ(types.at("output.weight"), GgmlType::kQ6_K);
  EXPECT_EQ(types.at("token_embd.weight"), GgmlType::kQ4_K);
}

TEST(Recipe, TheMixesFollowTheirTables) {
  const auto type = [](const char* mix, const std::string& tensor) {
    return TypesOf(Model(), MixOf(mix)).at(tensor);
  };
  EXPECT_EQ(type("q2_k", Layer(5, "attn_v")), GgmlType::kQ3_K) << "2 heads share a value head";
  EXPECT_EQ(type("q2_k", Layer(5, "ffn_down")), GgmlType::kQ3_K);
  EXPECT_EQ(type("q2_k", Layer(5, "attn_output")), GgmlType::kQ3_K);
  EXPECT_EQ(type("q2_k", Layer(5, "ffn_up")), GgmlType::kQ2_K);
  EXPECT_EQ(type("q3_k_s", Layer(0, "ffn_down")), GgmlType::kQ3_K);
  EXPECT_EQ(type("q3_k_m", Layer(1, "attn_v")), GgmlType::kQ5_K);
  EXPECT_EQ(type("q3_k_m", Layer(2, "attn_v")), GgmlType::kQ4_K);
  EXPECT_EQ(type("q3_k_m", Layer(2, "attn_output")), GgmlType::kQ4_K);
  EXPECT_EQ(type("q3_k_l", Layer(2, "ffn_down")), GgmlType::kQ5_K);
  EXPECT_EQ(type("q4_k_s", Layer(3, "attn_v")), GgmlType::kQ5_K);
  EXPECT_EQ(type("q4_k_s", Layer(4, "attn_v")), GgmlType::kQ4_K);
  EXPECT_EQ(type("q4_k_s", Layer(0, "ffn_down")), GgmlType::kQ5_K);
  EXPECT_EQ(type("q5_k_m", Layer(1, "attn_v")), GgmlType::kQ5_K);
  EXPECT_EQ(type("q8_0", "token_embd.weight"), GgmlType::kQ8_0);
  EXPECT_EQ(type("q4_0", "token_embd.weight"), GgmlType::kQ6_K);
  EXPECT_EQ(type("mxfp4", "token_embd.weight"), GgmlType::kQ8_0);
  EXPECT_EQ(type("f16", "token_embd.weight"), GgmlType::kF16);
}

TEST(Recipe, FourHeadsToAValueHeadEarnItMoreBits) {
  testing::TinyModelOptions model = Model();
  model.heads = 8;
  EXPECT_EQ(TypesOf(model, MixOf("q2_k")).at(Layer(5, "attn_v")), GgmlType::kQ4_K);
  EXPECT_EQ(TypesOf(model, MixOf("iq4_xs")).at(Layer(5, "attn_v")), GgmlType::kQ5_K);
}

TEST(Recipe, ImportanceChangesTheEarlyLayersOfSomeMixes) {
  RecipeOptions options = MixOf("q4_0");
  EXPECT_EQ(TypesOf(Model(), options).at(Layer(0, "ffn_down")), GgmlType::kQ4_0);
  options.has_importance = true;
  EXPECT_EQ(TypesOf(Model(), options).at(Layer(0, "ffn_down")), GgmlType::kQ4_1);
}

TEST(Recipe, PureAndOverridesWinInThatOrder) {
  RecipeOptions options = MixOf("q4_k_m");
  options.pure = true;
  options.overrides = {{"blk\\.0\\.ffn_(up|gate)", GgmlType::kQ8_0}, {"ffn_up", GgmlType::kQ2_K}};
  const Types types = TypesOf(Model(), options);
  EXPECT_EQ(types.at("token_embd.weight"), GgmlType::kQ4_K);
  EXPECT_EQ(types.at(Layer(0, "attn_v")), GgmlType::kQ4_K);
  EXPECT_EQ(types.at(Layer(0, "ffn_up")), GgmlType::kQ8_0) << "the first match";
  EXPECT_EQ(types.at(Layer(1, "ffn_up")), GgmlType::kQ2_K);
  const Parsed parsed(Model());
  options.overrides = {{"(", GgmlType::kQ8_0}};
  EXPECT_EQ(PlanTypes(*MakeSourceTensors(parsed.file), options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// A mistyped one left the tensor to the mix without a word.
TEST(Recipe, APatternThatIsFoundInNothingToQuantizeIsRefused) {
  const Parsed parsed(Model());
  RecipeOptions options = MixOf("q4_k_m");
  const auto plan = [&](std::vector<TypeOverride> overrides) {
    options.overrides = std::move(overrides);
    return PlanTypes(*MakeSourceTensors(parsed.file), options).status();
  };
  for (const char* pattern : {"atn_q", "^attn_q", "attn_norm"}) {
    const absl::Status status = plan({{"attn_q", GgmlType::kQ8_0}, {pattern, GgmlType::kQ8_0}});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("\"", pattern, "\" is found in no name")));
  }
  EXPECT_TRUE(plan({{"ffn_up", GgmlType::kQ8_0}, {"ffn_up|ffn_down", GgmlType::kQ4_0}}).ok());
  EXPECT_TRUE(plan({{"ffn", GgmlType::kQ8_0}, {"ffn_up", GgmlType::kQ4_0}}).ok())
      << "the first wins, and the second is found";
}

TEST(Recipe, RowsThatDoNotFitFallBackByName) {
  testing::TinyModelOptions model = Model();
  model.hidden = 64;
  model.ffn = 96;
  const Parsed parsed(model);
  const std::vector<TensorRecipe> recipes =
      PlanTypes(*MakeSourceTensors(parsed.file), MixOf("q4_k_m")).value();
  for (const TensorRecipe& recipe : recipes) {
    if (recipe.name != Layer(1, "ffn_down")) continue;
    EXPECT_EQ(recipe.target, GgmlType::kQ5_0);
    EXPECT_EQ(recipe.note, "rows of 96 are no multiple of 256: Q5_0 for Q4_K");
  }
  model.ffn = 72;
  EXPECT_EQ(TypesOf(model, MixOf("q4_k_m")).at(Layer(1, "ffn_down")), GgmlType::kF16);
  EXPECT_EQ(TypesOf(model, MixOf("q2_k")).at(Layer(1, "ffn_up")), GgmlType::kQ4_0);
  EXPECT_EQ(TypesOf(model, MixOf("iq4_xs")).at(Layer(1, "ffn_up")), GgmlType::kIQ4_NL);
}

TEST(Recipe, ASourceThatIsQuantizedIsNoticed) {
  testing::TinyModelOptions model = Model();
  const Parsed plain(model);
  EXPECT_FALSE(
      SourceIsQuantized(PlanTypes(*MakeSourceTensors(plain.file), MixOf("q4_k_m")).value()));
  model.matrix_type = GgmlType::kQ8_0;
  const Parsed quantized(model);
  EXPECT_TRUE(
      SourceIsQuantized(PlanTypes(*MakeSourceTensors(quantized.file), MixOf("q4_k_m")).value()));
}

}  // namespace
}  // namespace nibble
