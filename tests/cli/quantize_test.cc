#include "cli/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <sstream>

#include "cli/app.h"
#include "engine/inspect.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

class QuantizeCommand : public ::testing::Test {
 protected:
  QuantizeCommand() {
    testing::TinyModelOptions options;
    options.hidden = 256;
    options.matrix_type = options.embedding_type = GgmlType::kF16;
    model_ = testing::WriteTempFile("cli_quantize.gguf", testing::TinyModel(options).Build());
    output_ = ::testing::TempDir() + "/nibble_cli_quantize_out_" + std::to_string(getpid());
    unlink(output_.c_str());
  }

  int Run(std::vector<std::string> args) {
    args.insert(args.begin(), "quantize");
    out_.str("");
    err_.str("");
    std::istringstream in;
    const Io io{in, out_, err_};
    return RunCli(args, [](const std::string&) -> const char* { return nullptr; }, io);
  }

  std::string model_, output_;
  std::ostringstream out_, err_;
};

TEST_F(QuantizeCommand, WritesAModelThatCanBeServedAndSaysHowItCameToBe) {
  ASSERT_EQ(Run({"--model", model_, "--output", output_, "--type", "q4_k_m", "--threads", "2",
                 "--tensor-type", "attn_q=q8_0"}),
            kExitOk)
      << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("F16   -> Q8_0"));
  EXPECT_THAT(out_.str(), HasSubstr("wrote          " + output_));
  const InspectReport report = Inspect(output_);
  EXPECT_TRUE(report.status.ok()) << report.status;
  ASSERT_TRUE(report.quantized.has_value());
  EXPECT_EQ(report.quantized->type, "q4_k_m");
  EXPECT_EQ(report.quantized->options, "--tensor-type attn_q=q8_0");
  EXPECT_EQ(report.quantized->source_sha256.size(), 64u);
  EXPECT_FALSE(report.quantized->tensor_errors.empty());
  EXPECT_FALSE(Inspect(model_).quantized.has_value());
}

TEST_F(QuantizeCommand, JsonHoldsEveryTensor) {
  ASSERT_EQ(
      Run({"--model", model_, "--output", output_, "--type", "q8_0", "--output-format", "json"}),
      kExitOk)
      << err_.str();
  const auto json = nlohmann::ordered_json::parse(out_.str());
  EXPECT_EQ(json["tensors"][0]["from"], "F16");
  EXPECT_EQ(json["tensors"][0]["to"], "Q8_0");
  EXPECT_LT(json["tensors"][0]["relative_error"], 0.01);
  EXPECT_EQ(json["output"], output_);
}

// It ended the program after all the work.
TEST_F(QuantizeCommand, AnOutputWhosePathIsNotUtf8IsToldAboutInJson) {
  const std::string output = output_ + "\xff";
  ASSERT_EQ(Run({"--model", model_, "--output", output, "--type", "q8_0", "--output-format", "json",
                 "--overwrite"}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(nlohmann::ordered_json::parse(out_.str())["output"], output_ + "\uFFFD");
  EXPECT_TRUE(Inspect(output).status.ok());
}

TEST_F(QuantizeCommand, TheHelpHasTheKeysOfEveryJson) {
  const std::string folder = output_ + "_folder";
  std::filesystem::remove_all(folder);
  for (const std::vector<std::string>& to :
       {std::vector<std::string>{"--output", output_, "--overwrite", "--type", "q8_0"},
        std::vector<std::string>{"--output", folder, "--layout", "plain"}}) {
    std::vector<std::string> args = {"--model", model_, "--output-format", "json"};
    args.insert(args.end(), to.begin(), to.end());
    ASSERT_EQ(Run(args), kExitOk) << err_.str();
    const auto json = nlohmann::json::parse(out_.str());
    for (const auto& [key, value] : json.items()) {
      EXPECT_THAT(QuantizeFooter(), HasSubstr("\"" + key + "\"")) << key;
    }
    for (const auto& [key, value] : json["tensors"][0].items()) {
      EXPECT_THAT(QuantizeFooter(), HasSubstr("\"" + key + "\"")) << key;
    }
  }
  std::filesystem::remove_all(folder);
}

TEST_F(QuantizeCommand, ADryRunWritesNothing) {
  ASSERT_EQ(Run({"--model", model_, "--type", "q2_k", "--dry-run"}), kExitOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("bits a weight"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("wrote")));
  EXPECT_NE(access(output_.c_str(), F_OK), 0);
}

TEST_F(QuantizeCommand, AnExistingFileIsReplacedOnlyWhenTold) {
  ASSERT_EQ(Run({"--model", model_, "--output", output_, "--type", "q8_0"}), kExitOk);
  EXPECT_EQ(Run({"--model", model_, "--output", output_, "--type", "q4_0"}), kExitFailure);
  EXPECT_THAT(err_.str(), HasSubstr("ALREADY_EXISTS"));
  EXPECT_EQ(Run({"--model", model_, "--output", output_, "--type", "q4_0", "--overwrite"}),
            kExitOk);
  EXPECT_EQ(Inspect(output_).quantized->type, "q4_0");
}

// Either would become a small file that says it is a model.
TEST_F(QuantizeCommand, APartOfASplitModelIsRefused) {
  for (const char* architecture : {"llama", "phi3"}) {
    testing::GgufWriter part = testing::TinyModel({});
    part.String("general.architecture", architecture);
    part.Raw("split.count", 2, testing::BytesOf<uint16_t>(3));
    const std::string model = testing::WriteTempFile("cli_quantize_part.gguf", part.Build());
    EXPECT_EQ(Run({"--model", model, "--output", output_, "--type", "q8_0"}), kExitFailure);
    EXPECT_THAT(err_.str(), HasSubstr("key 'split.count' is u16 3: a model in several files"));
    testing::GgufWriter adapter = testing::TinyModel({});
    adapter.String("general.architecture", architecture);
    adapter.String("general.type", "adapter");
    const std::string other = testing::WriteTempFile("cli_quantize_lora.gguf", adapter.Build());
    EXPECT_EQ(Run({"--model", other, "--output", output_, "--type", "q8_0"}), kExitFailure);
    EXPECT_THAT(err_.str(), HasSubstr("a file that is not a whole model"));
  }
  EXPECT_NE(access(output_.c_str(), F_OK), 0);
}

TEST_F(QuantizeCommand, AModelThatIsNotServedIsQuantizedWithAWarning) {
  testing::GgufWriter writer = testing::TinyModel({});
  writer.String("general.architecture", "phi3");
  const std::string model = testing::WriteTempFile("cli_quantize_phi.gguf", writer.Build());
  EXPECT_EQ(Run({"--model", model, "--output", output_, "--type", "q8_0"}), kExitOk);
  EXPECT_THAT(err_.str(), HasSubstr("warning: this program cannot serve the model: " + model +
                                    ": architecture \"phi3\" is not implemented"));
}

TEST_F(QuantizeCommand, TheSourceIsNeverTheOutput) {
  EXPECT_EQ(Run({"--model", model_, "--output", model_, "--overwrite"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("is the file that --model names"));
}

// The importance is written first, by a rename: it took the place of whatever had its name.
TEST_F(QuantizeCommand, TheImportanceReplacesNothingUnasked) {
  const std::vector<uint8_t> text(2000, 'a');
  const std::string calibration = testing::WriteTempFile("cli_quantize_kept.txt", text);
  const auto run = [&](const std::string& imatrix, std::vector<std::string> more) {
    more.insert(more.end(), {"--model", model_, "--output", output_, "--type", "q4_0",
                             "--calibration", calibration, "--imatrix-output", imatrix});
    return Run(more);
  };
  const int64_t size = Inspect(model_).file_bytes;
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--overwrite"}, std::vector<std::string>{"--dry-run"}}) {
    EXPECT_EQ(run(model_, more), kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr("--imatrix-output: " + model_ +
                                      " is the file that --model names; name another"));
    EXPECT_EQ(run(calibration, more), kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr("is the file that --calibration names"));
    EXPECT_EQ(run(output_, more), kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr("is the file that --output names"));
  }
  EXPECT_EQ(Inspect(model_).file_bytes, size);
  const std::string mine = testing::WriteTempFile("cli_quantize_mine.txt", text);
  EXPECT_EQ(run(mine, {}), kExitFailure);
  EXPECT_THAT(err_.str(), HasSubstr("--imatrix-output: " + mine + " exists; name another file"));
  EXPECT_EQ(Inspect(mine).file_bytes, 2000);
  EXPECT_EQ(run(mine, {"--overwrite"}), kExitOk) << err_.str();
  EXPECT_NE(Inspect(mine).file_bytes, 2000);
}

TEST_F(QuantizeCommand, WrongFlagsAreUsageErrorsThatSayWhatIsKnown) {
  EXPECT_EQ(Run({"--output", output_}), kExitUsage);
  EXPECT_EQ(Run({"--model", model_}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--output: found nothing"));
  EXPECT_EQ(Run({"--model", model_, "--output", output_, "--type", "q7"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--type: found \"q7\", needed one of f32"));
  EXPECT_EQ(Run({"--model", model_, "--output", output_, "--tensor-type", "x"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("needed REGEX=TYPE"));
  EXPECT_EQ(Run({"--model", model_, "--output", output_, "--tensor-type", "x=q1"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("needed one of f32, f16, q4_0"));
  for (const char* mode : {"--type=q4_0", "--method=rtn"}) {
    EXPECT_EQ(Run({"--model", "/no/such", "--output", output_, mode, "--tensor-type", "(=q8_0"}),
              kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr("--tensor-type: \"(\" is no regular expression"));
    EXPECT_EQ(Run({"--model", model_, "--output", output_, mode, "--tensor-type", "atn_q=q8_0"}),
              kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr("--tensor-type: \"atn_q\" is found in no name of a tensor"));
  }
}

TEST_F(QuantizeCommand, QuantizingTwiceIsWarnedOf) {
  ASSERT_EQ(Run({"--model", model_, "--output", output_, "--type", "q8_0"}), kExitOk);
  EXPECT_EQ(err_.str(), "");
  const std::string twice = output_ + ".twice";
  ASSERT_EQ(Run({"--model", output_, "--output", twice, "--type", "q4_0", "--overwrite"}), kExitOk);
  EXPECT_THAT(err_.str(), HasSubstr("warning: the source is quantized already"));
}

// What the mix leaves as the source has it was never measured, so a model of the mix's own types
// could not be made smaller.
TEST_F(QuantizeCommand, ABudgetTakesTensorsThatHaveTheMixsTypeAlready) {
  ASSERT_EQ(
      Run({"--model", model_, "--output", output_, "--type", "q4_k_m", "--output-format", "json"}),
      kExitOk);
  const int64_t bytes = nlohmann::json::parse(out_.str())["weights_bytes"];
  const std::string less = std::to_string(bytes * 9 / 10);
  ASSERT_EQ(Run({"--model", output_, "--type", "q4_k_m", "--dry-run", "--byte-budget", less,
                 "--budget-types", "Q3_K,Q4_K,Q6_K", "--budget-windows", "1",
                 "--calibration-length", "32", "--output-format", "json"}),
            kExitOk)
      << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["sensitivity"].size(), 15u) << "the embedding and seven linears in two layers";
  EXPECT_LE(json["weights_bytes"], bytes * 9 / 10);
  EXPECT_EQ(Run({"--model", model_, "--dry-run", "--sensitivity", "--tensor-type", ".=q8_0"}),
            kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--sensitivity: found no tensor to choose a type for"));
}

TEST_F(QuantizeCommand, ATextMeasuresImportanceThatAFileThenRepeats) {
  std::string text;
  for (int i = 0; i < 900; ++i) text += static_cast<char>('a' + (i * i + i / 7) % 26);
  const std::string calibration =
      testing::WriteTempFile("cli_quantize.txt", std::vector<uint8_t>(text.begin(), text.end()));
  const std::string imatrix = output_ + ".imatrix", again = output_ + ".again";
  unlink(imatrix.c_str());
  unlink(again.c_str());
  ASSERT_EQ(Run({"--model", model_, "--output", output_, "--type", "q4_0", "--calibration",
                 calibration, "--imatrix-output", imatrix}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(err_.str(), "");
  ASSERT_EQ(Run({"--model", model_, "--output", again, "--type", "q4_0", "--imatrix", imatrix}),
            kExitOk)
      << err_.str();
  const InspectReport measured = Inspect(output_), repeated = Inspect(again);
  EXPECT_EQ(measured.quantized->tensor_errors, repeated.quantized->tensor_errors);
  EXPECT_EQ(measured.quantized->calibration_sha256.size(), 64u);
  EXPECT_EQ(repeated.quantized->importance_sha256.size(), 64u);
  EXPECT_EQ(Run({"--model", model_, "--output", again, "--overwrite", "--type", "q4_0",
                 "--calibration", calibration, "--imatrix", imatrix}),
            kExitUsage);
}

// All of the text was read in windows of 512, whatever these flags said.
TEST_F(QuantizeCommand, ImportanceIsOfTheWindowsAskedFor) {
  const std::string calibration =
      testing::WriteTempFile("cli_quantize_windows.txt", std::vector<uint8_t>(3000, 'a'));
  ASSERT_EQ(Run({"--model", model_, "--output", output_, "--type", "q4_0", "--calibration",
                 calibration, "--calibration-windows", "2", "--calibration-length", "32", "--seed",
                 "3", "--output-format", "json"}),
            kExitOk)
      << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["calibration"]["windows"], 2);
  EXPECT_EQ(json["calibration"]["length"], 32);
  EXPECT_EQ(Inspect(output_).quantized->options,
            "--calibration --calibration-windows 2 --calibration-length 32 --seed 3");
}

TEST(SmoothAlphaTest, TheHelpDoesNotCallZeroOff) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"quantize", "--help"},
        std::vector<std::string>{"eval", "table", "--help"}}) {
    std::istringstream in;
    std::ostringstream out, err;
    const Io io{in, out, err};
    RunCli(command, [](const std::string&) -> const char* { return nullptr; }, io);
    EXPECT_THAT(out.str(), HasSubstr("SmoothQuant's: 1 moves all"));
    EXPECT_THAT(out.str(), Not(HasSubstr("0 leaves activations as they are")));
  }
}

// Finite weights and logits, squares of activations that are not: scales chosen by them would be
// NaN.
TEST_F(QuantizeCommand, ImportanceThatIsNotFiniteIsRefused) {
  testing::TinyModelOptions options;
  options.matrix_type = GgmlType::kF32;
  testing::GgufWriter writer = testing::TinyModel(options);
  const float huge = 1e30f;
  std::memcpy(writer.FindTensor("blk.0.ffn_up.weight")->data.data(), &huge, sizeof(huge));
  const std::string model = testing::WriteTempFile("cli_quantize_huge.gguf", writer.Build());
  std::string text;
  for (int i = 0; i < 900; ++i) text += static_cast<char>('a' + (i * i + i / 7) % 26);
  const std::string calibration = testing::WriteTempFile(
      "cli_quantize_huge.txt", std::vector<uint8_t>(text.begin(), text.end()));
  const std::string imatrix = output_ + ".huge";
  unlink(imatrix.c_str());
  EXPECT_NE(Run({"--model", model, "--output", output_, "--type", "q4_0", "--calibration",
                 calibration, "--imatrix-output", imatrix}),
            kExitOk);
  EXPECT_THAT(err_.str(), HasSubstr("--calibration: the importance of 'blk.0.ffn_down.weight'"));
  EXPECT_NE(access(output_.c_str(), F_OK), 0);
  EXPECT_NE(access(imatrix.c_str(), F_OK), 0);
}

TEST(ParseTensorType, TakesTheLastEqualsSign) {
  const absl::StatusOr<TypeOverride> entry = ParseTensorType("a=b=Q4_K");
  ASSERT_TRUE(entry.ok());
  EXPECT_EQ(entry->pattern, "a=b");
  EXPECT_EQ(entry->type, GgmlType::kQ4_K);
}

}  // namespace
}  // namespace nibble
