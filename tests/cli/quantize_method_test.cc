#include "cli/quantize_method.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <sstream>

#include "cli/app.h"
#include "cli/method_run.h"
#include "engine/inspect.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

class QuantizeMethod : public ::testing::Test {
 protected:
  QuantizeMethod() {
    testing::TinyModelOptions options;
    options.hidden = 256;
    options.matrix_type = options.embedding_type = GgmlType::kF16;
    model_ = testing::WriteTempFile("quantize_method.gguf", testing::TinyModel(options).Build());
    output_ = ::testing::TempDir() + "/nibble_quantize_method_out_" + std::to_string(getpid());
    unlink(output_.c_str());
  }

  int Run(std::vector<std::string> args) {
    args.insert(args.begin(), {"quantize", "--model", model_, "--overwrite", "--output", output_,
                               "--threads", "2"});
    out_.str("");
    err_.str("");
    std::istringstream in;
    const Io io{in, out_, err_};
    return RunCli(args, [](const std::string&) -> const char* { return nullptr; }, io);
  }
  void ExpectUsage(std::vector<std::string> args, const std::string& part) {
    EXPECT_EQ(Run(std::move(args)), kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr(part));
    EXPECT_NE(access(output_.c_str(), F_OK), 0);
  }

  const std::vector<std::string> kFew = {"--calibration-windows", "4", "--calibration-length",
                                         "32"};
  std::string model_, output_;
  std::ostringstream out_, err_;
};

TEST_F(QuantizeMethod, WritesAModelThatSaysHowItCameToBe) {
  std::vector<std::string> args = {"--method",  "gptq", "--scheme",        "int4-asym-g64",
                                   "--damping", "0.02", "--output-format", "json"};
  args.insert(args.end(), kFew.begin(), kFew.end());
  ASSERT_EQ(Run(args), kExitOk) << err_.str();
  const auto json = nlohmann::ordered_json::parse(out_.str());
  EXPECT_EQ(json["method"], "gptq-actorder-int4-asym-g64");
  EXPECT_EQ(json["type"], "q4_1");
  EXPECT_EQ(json["calibration"]["windows"], 4);
  EXPECT_EQ(json["calibration"]["length"], 32);
  int with_outputs = 0;
  for (const auto& tensor : json["tensors"]) with_outputs += tensor.contains("output_error");
  EXPECT_EQ(with_outputs, 14);
  const InspectReport report = Inspect(output_);
  EXPECT_TRUE(report.status.ok()) << report.status;
  EXPECT_EQ(report.quantized->method, "gptq-actorder-int4-asym-g64");
  EXPECT_EQ(report.quantized->type, "q4_1");
  EXPECT_EQ(report.quantized->options,
            "--damping 0.02 --calibration-windows 4 --calibration-length 32 --seed 1");
  EXPECT_EQ(report.quantized->source_sha256, json["source_sha256"]);
  EXPECT_EQ(report.quantized->calibration_sha256.size(), 64u);
}

TEST(MethodOptionsText, TellsTheSeedOfARotation) {
  const quantize::Method rotated = *quantize::ParseMethod("incoherent-rtn-int4-full-g64");
  EXPECT_EQ(MethodOptionsText({}, rotated), "--seed 1");
  EXPECT_EQ(MethodOptionsText({}, *quantize::ParseMethod("rtn-int4-full-g64")), "");
}

TEST_F(QuantizeMethod, ADryRunSaysWhatWouldBeAndWritesNothing) {
  ASSERT_EQ(Run({"--method", "awq", "--dry-run"}), kExitOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("F16   -> Q4_0"));
  EXPECT_NE(access(output_.c_str(), F_OK), 0);
}

TEST_F(QuantizeMethod, CombinationsThatDoNotWorkAreRefusedWithOnesThatDo) {
  ExpectUsage({"--method", "gptq", "--scheme", "int4-asym-g32", "--type", "q4_k_m"},
              "its blocks are Q4_K, --method gptq-actorder-int4-asym-g32 fills Q4_1; give --type "
              "q4_1 or none");
  ExpectUsage({"--method", "rtn", "--scheme", "nf4-b64"}, "no ggml type has the codes of nf4-b64");
  ExpectUsage({"--method", "gptq", "--order", "act-order"}, "static groups");
  ExpectUsage({"--method", "rtn", "--calibration", "x.txt"}, "looks at no text");
  ExpectUsage({"--method", "gptq", "--imatrix", "x.gguf"}, "--calibration");
  ExpectUsage({"--scheme", "int4-asym-g32"}, "is of a --method, which is not given");
  ExpectUsage({"--order", "sequential"}, "is of a --method, which is not given");
  ExpectUsage({"--method", "rtn", "--scheme", "int4-sym-g96"}, "whole groups of 96");
}

TEST_F(QuantizeMethod, WhatATypeHoldsAnywayMayBeNamed) {
  EXPECT_EQ(Run({"--method", "rtn", "--type", "Q4_0"}), kExitOk) << err_.str();
  EXPECT_EQ(err_.str(), "");
  EXPECT_EQ(Run({"--method", "rtn", "--scheme", "int3-full-g32"}), kExitOk);
  EXPECT_THAT(err_.str(), HasSubstr("codes of 3 bits take the 4 of Q4_0"));
}

TEST_F(QuantizeMethod, AMissingTextIsNamed) {
  EXPECT_EQ(Run({"--method", "clip", "--calibration", "/nowhere.txt"}), kExitFailure);
  EXPECT_THAT(err_.str(), HasSubstr("--calibration \"/nowhere.txt\""));
}

}  // namespace
}  // namespace nibble
