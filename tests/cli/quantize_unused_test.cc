#include "cli/quantize_unused.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "cli/app.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using Args = std::vector<std::string>;

struct Ran {
  int code;
  std::string err;
};

// There is no such model: what gets that far was not refused for its flags.
Ran Quantize(Args args, const std::map<std::string, std::string>& environment = {}) {
  args.insert(args.begin(), {"quantize", "--model", "/no/such/model", "--output", "/no/such/out"});
  std::istringstream in;
  std::ostringstream out, err;
  const auto lookup = [&](const std::string& name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  };
  const int code = RunCli(args, lookup, Io{in, out, err});
  return {code, err.str()};
}

const std::vector<std::pair<std::string, std::string>> kFlags = {
    {"--damping", "0.02"},           {"--smooth-alpha", "0.7"}, {"--calibration-windows", "8"},
    {"--calibration-length", "128"}, {"--seed", "3"},           {"--budget-types", "Q4_0"},
    {"--budget-windows", "2"}};

struct Mode {
  Args args;
  std::vector<std::string> used;  // of kFlags
};

const std::vector<std::string> kTexts = {"--calibration-windows", "--calibration-length", "--seed"};

std::vector<Mode> Modes() {
  const std::vector<std::string> gptq = {"--damping", kTexts[0], kTexts[1], kTexts[2]};
  const std::vector<std::string> smooth = {"--smooth-alpha", kTexts[0], kTexts[1], kTexts[2]};
  const std::vector<std::string> budget = {"--calibration-length", "--seed", "--budget-types",
                                           "--budget-windows"};
  return {
      {{}, {}},
      {{"--type", "q4_0"}, {}},
      {{"--type", "q4_0", "--imatrix", "i.gguf"}, {}},
      {{"--type", "q4_0", "--calibration", "t.txt"}, kTexts},
      {{"--sensitivity"}, budget},
      {{"--byte-budget", "8MB"}, budget},
      {{"--method", "rtn"}, {}},
      {{"--method", "awq"}, kTexts},
      {{"--method", "clip", "--calibration", "t.txt"}, kTexts},
      {{"--method", "gptq"}, gptq},
      {{"--method", "gptq-clip"}, gptq},
      {{"--method", "smoothquant"}, smooth},
      {{"--layout", "plain"}, {}},
      {{"--layout", "plain", "--method", "incoherent-rtn-int4-full-g64"}, {"--seed"}},
      {{"--layout", "auto", "--method", "rtn-nf4-b64"}, {}},
      {{"--layout", "gptq", "--method", "gptq"}, gptq},
  };
}

TEST(QuantizeUnusedTest, AFlagThatWouldChangeNothingIsWrongUsage) {
  for (const Mode& mode : Modes()) {
    for (const auto& [flag, value] : kFlags) {
      const bool used = std::find(mode.used.begin(), mode.used.end(), flag) != mode.used.end();
      for (const Args& typed : {Args{flag, value}, Args{flag + "=" + value}}) {
        Args args = mode.args;
        args.insert(args.end(), typed.begin(), typed.end());
        const Ran ran = Quantize(args);
        const std::string what = ::testing::PrintToString(args);
        EXPECT_EQ(ran.code, used ? kExitFailure : kExitUsage) << what << ran.err;
        EXPECT_THAT(ran.err, HasSubstr(used ? "/no/such/model" : flag + ": would change nothing"))
            << what;
      }
    }
  }
}

TEST(QuantizeUnusedTest, AVariableMayBeForAnotherCommand) {
  EXPECT_EQ(Quantize({"--type", "q4_0"}, {{"NIBBLE_SEED", "3"}}).code, kExitFailure);
  EXPECT_EQ(Quantize({"--method", "rtn", "--seed", "4"}, {{"NIBBLE_SEED", "3"}}).code, kExitUsage);
}

}  // namespace
}  // namespace nibble
