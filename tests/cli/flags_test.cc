#include "cli/flags.h"

#include <gtest/gtest.h>

#include <map>

namespace nibble {
namespace {

enum class Colour { kRed, kBlue };

struct Values {
  int32_t count = 3;
  float share = 0.5f;
  std::string name = "anna";
  bool loud = false;
  Duration wait = std::chrono::seconds(30);
  std::optional<Duration> limit;
  std::optional<uint64_t> seed;
  std::optional<std::string> text;
  std::vector<std::string> stops;
  std::vector<int32_t> ids;
  std::vector<std::pair<int32_t, float>> bias;
  Colour colour = Colour::kRed;
};

class FlagsTest : public ::testing::Test {
 protected:
  FlagsTest() : flags_(app_) {
    flags_.Add("--count", values_.count, "How many")->check(CLI::Range(0, 10));
    flags_.Add("--share", values_.share, "Of all");
    flags_.Add("--name", values_.name, "Whose");
    flags_.Add("--loud", values_.loud, "Shout");
    flags_.Add("--wait-time", values_.wait, "How long");
    flags_.Add("--limit", values_.limit, "At most");
    flags_.Add("--seed", values_.seed, "Of randomness");
    flags_.Add("--text", values_.text, "What to say");
    flags_.Add("--stop", values_.stops, "Where to end");
    flags_.Add("--ids", values_.ids, "Which");
    flags_.Add("--bias", values_.bias, "What to prefer");
    flags_.AddChoice<Colour>("--colour", values_.colour,
                             {{"red", Colour::kRed}, {"blue", Colour::kBlue}}, "Which colour");
  }

  // Parses the arguments with the environment's in front, as the program does.
  void Parse(const std::vector<std::string>& args) {
    std::vector<std::string> full = flags_.EnvironmentArgs(args, [this](const std::string& name) {
      const auto found = environment_.find(name);
      return found == environment_.end() ? nullptr : found->second.c_str();
    });
    full.insert(full.end(), args.begin(), args.end());
    app_.parse(std::vector<std::string>(full.rbegin(), full.rend()));
  }

  CLI::App app_{"test"};
  Flags flags_;
  Values values_;
  std::map<std::string, std::string> environment_;
};

TEST_F(FlagsTest, DefaultsStayWithoutArguments) {
  Parse({});
  EXPECT_EQ(values_.count, 3);
  EXPECT_EQ(values_.wait, std::chrono::seconds(30));
  EXPECT_FALSE(values_.seed.has_value());
  EXPECT_FALSE(values_.text.has_value());
  EXPECT_EQ(values_.colour, Colour::kRed);
}

TEST_F(FlagsTest, ReadsEveryKindOfValue) {
  Parse({"--count",     "7",     "--share=0.25", "--name",   "bea",    "--loud",
         "--wait-time", "500ms", "--limit",      "2m",       "--seed", "18446744073709551615",
         "--text",      "hi",    "--stop",       "a",        "--stop", "b",
         "--ids",       "1,2",   "--bias",       "5=-1,6=2", "--bias", "7=3",
         "--colour",    "blue"});
  EXPECT_EQ(values_.count, 7);
  EXPECT_EQ(values_.share, 0.25f);
  EXPECT_EQ(values_.name, "bea");
  EXPECT_TRUE(values_.loud);
  EXPECT_EQ(values_.wait, std::chrono::milliseconds(500));
  EXPECT_EQ(values_.limit, std::chrono::minutes(2));
  EXPECT_EQ(values_.seed, 18446744073709551615u);
  EXPECT_EQ(values_.text, "hi");
  EXPECT_EQ(values_.stops, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(values_.ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(values_.bias, (std::vector<std::pair<int32_t, float>>{{5, -1}, {6, 2}, {7, 3}}));
  EXPECT_EQ(values_.colour, Colour::kBlue);
}

TEST_F(FlagsTest, TextIsTakenAsItIs) {
  // CLI11 reads "[a,b]" as a list in some kinds of options, "" as nothing in others, "-x" as a
  // flag.
  for (const char* text :
       {"", "[a,b]", "-x", "--count", "a b\nc", "{\"x\":1}", "=", "\"quoted\""}) {
    Parse({"--text", text, "--name", text});
    EXPECT_EQ(values_.text, text);
    EXPECT_EQ(values_.name, text);
    app_.clear();
  }
}

TEST_F(FlagsTest, StopTakesOneValueAnOccurrenceAsItIs) {
  Parse({"--stop", "[x,y]", "--stop", "a,b", "--loud"});
  EXPECT_EQ(values_.stops, (std::vector<std::string>{"[x,y]", "a,b"}));
  EXPECT_TRUE(values_.loud);
}

TEST_F(FlagsTest, WrongValuesAreUsageErrors) {
  const std::vector<std::vector<std::string>> wrong = {
      {"--count", "x"},     {"--count", "11"},  {"--count", "1.5"},     {"--count"},
      {"--wait-time", "3"}, {"--seed", "-1"},   {"--colour", "green"},  {"--ids", "1,x"},
      {"--bias", "1"},      {"--unknown", "1"}, {"--limit", "forever"}, {"stray"}};
  for (const auto& args : wrong) {
    EXPECT_THROW(Parse(args), CLI::ParseError) << args.front();
    app_.clear();
  }
}

TEST_F(FlagsTest, AnErrorNamesTheFlagAndWhatItNeeds) {
  try {
    Parse({"--wait-time", "3"});
    FAIL() << "accepted";
  } catch (const CLI::ParseError& error) {
    EXPECT_NE(std::string(error.what()).find("--wait-time"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("500ms"), std::string::npos) << error.what();
  }
}

TEST_F(FlagsTest, TheTwinOfAFlagIsItsNameInCapitals) {
  EXPECT_EQ(Flags::Twin("--max-context"), "NIBBLE_MAX_CONTEXT");
  EXPECT_EQ(Flags::Twin("--seed"), "NIBBLE_SEED");
}

TEST_F(FlagsTest, ATwinMayHaveAnotherNameOrBeNone) {
  flags_.SetTwin("--count", "NIBBLE_OTHER_COUNT");
  flags_.SetTwin("--seed", "");
  environment_ = {{"NIBBLE_COUNT", "9"}, {"NIBBLE_OTHER_COUNT", "4"}, {"NIBBLE_SEED", "7"}};
  Parse({});
  EXPECT_EQ(values_.count, 4);
  EXPECT_FALSE(values_.seed.has_value());
  const std::string help = app_.help();
  EXPECT_NE(help.find("How many [NIBBLE_OTHER_COUNT]"), std::string::npos) << help;
  EXPECT_NE(help.find("Of randomness"), std::string::npos) << help;
  EXPECT_EQ(help.find("NIBBLE_SEED"), std::string::npos) << help;
}

TEST_F(FlagsTest, TheEnvironmentSetsWhatTheCommandLineDoesNot) {
  environment_ = {{"NIBBLE_COUNT", "9"},      {"NIBBLE_NAME", "env"},    {"NIBBLE_LOUD", "1"},
                  {"NIBBLE_WAIT_TIME", "1m"}, {"NIBBLE_COLOUR", "blue"}, {"NIBBLE_OTHER", "x"},
                  {"NIBBLE_BIAS", "1=2,3=4"}};
  Parse({"--name=line"});
  EXPECT_EQ(values_.count, 9);
  EXPECT_EQ(values_.name, "line");
  EXPECT_TRUE(values_.loud);
  EXPECT_EQ(values_.wait, std::chrono::minutes(1));
  EXPECT_EQ(values_.colour, Colour::kBlue);
  EXPECT_EQ(values_.bias.size(), 2u);
}

TEST_F(FlagsTest, TheEnvironmentCanSwitchOffAndIsCheckedLikeTheCommandLine) {
  environment_ = {{"NIBBLE_LOUD", "false"}};
  values_.loud = true;
  Parse({});
  EXPECT_FALSE(values_.loud);
  environment_ = {{"NIBBLE_COUNT", "many"}};
  app_.clear();
  EXPECT_THROW(Parse({}), CLI::ParseError);
}

TEST_F(FlagsTest, AnEmptyVariableCountsAsNotSet) {
  environment_ = {{"NIBBLE_COUNT", ""}, {"NIBBLE_NAME", ""}};
  Parse({});
  EXPECT_EQ(values_.count, 3);
  EXPECT_EQ(values_.name, "anna");
}

TEST_F(FlagsTest, AFlagOnTheCommandLineSilencesTheTwinsOfItsRivals) {
  flags_.Rivals({"--text", "--ids"});
  environment_ = {{"NIBBLE_TEXT", "from the environment"}};
  Parse({"--ids", "4"});
  EXPECT_FALSE(values_.text.has_value());
  app_.clear();
  Parse({});
  EXPECT_EQ(values_.text, "from the environment");
}

TEST_F(FlagsTest, APositionalArgumentSilencesTheTwinsOfItsRivalsAndAFlagsValueIsNone) {
  std::string file;
  flags_.AddPositional("file", file, "What to read");
  flags_.Rivals({"file", "--text"});
  environment_ = {{"NIBBLE_TEXT", "from the environment"}};
  using Args = std::vector<std::string>;
  for (const Args& args :
       {Args{"a.txt"}, Args{"--count", "4", "a.txt"}, Args{"--count=4", "a.txt"},
        Args{"--loud", "a.txt"}, Args{"a.txt", "--name", "b"}, Args{"--loud", "--", "a.txt"}}) {
    Parse(args);
    EXPECT_EQ(file, "a.txt") << ::testing::PrintToString(args);
    EXPECT_FALSE(values_.text.has_value()) << ::testing::PrintToString(args);
    app_.clear();
  }
  for (const Args& args : {Args{}, Args{"--count", "4"}, Args{"--share", "-0.5", "--loud"}}) {
    Parse(args);
    EXPECT_EQ(values_.text, "from the environment") << ::testing::PrintToString(args);
    values_.text.reset();
    app_.clear();
  }
}

// NIBBLE_THREADS, meant for a server, is no flag of the command that asks one.
TEST_F(FlagsTest, AFlagThatNeedsAnotherIsRefusedAloneAndItsTwinIsLeftOut) {
  std::string here;
  int32_t threads = 1;
  flags_.Add("--here", here, "Where");
  flags_.OnlyWith("--here", [&] { flags_.Add("--threads", threads, "How many"); });
  EXPECT_THROW(Parse({"--threads", "2"}), CLI::ParseError);
  app_.clear();
  threads = 1;  // it was read before it was refused
  environment_ = {{"NIBBLE_THREADS", "3"}};
  Parse({});
  EXPECT_EQ(threads, 1);
  app_.clear();
  Parse({"--here", "a"});
  EXPECT_EQ(threads, 3);
  app_.clear();
  Parse({"--here=a", "--threads=2"});
  EXPECT_EQ(threads, 2);
  app_.clear();
  threads = 1;
  environment_["NIBBLE_HERE"] = "b";
  Parse({});
  EXPECT_EQ(threads, 3) << "two twins that belong together";
}

TEST_F(FlagsTest, CheckIsTheFirstErrorOfThoseThatWereAdded) {
  EXPECT_TRUE(flags_.Check().ok());
  flags_.AddCheck([] { return absl::OkStatus(); });
  flags_.AddCheck([this] {
    return values_.loud ? absl::InvalidArgumentError("--loud: too late") : absl::OkStatus();
  });
  flags_.AddCheck([] { return absl::InternalError("never seen"); });
  Parse({"--loud"});
  EXPECT_EQ(flags_.Check().message(), "--loud: too late");
}

TEST_F(FlagsTest, ValuesAreTheEffectiveOnesUnderSnakeCaseNames) {
  environment_ = {{"NIBBLE_COUNT", "5"}};
  Parse({"--wait-time", "90s", "--colour", "blue", "--bias", "5=1"});
  const nlohmann::ordered_json json = flags_.Values();
  EXPECT_EQ(json["count"], 5);
  EXPECT_EQ(json["wait_time"], "90s");
  EXPECT_EQ(json["colour"], "blue");
  EXPECT_EQ(json["loud"], false);
  EXPECT_TRUE(json["seed"].is_null());
  EXPECT_EQ(json["bias"]["5"], 1);
  EXPECT_EQ(json.begin().key(), "count");
}

TEST_F(FlagsTest, HelpShowsDefaultsAndTwins) {
  const std::string help = app_.help();
  EXPECT_NE(help.find("NIBBLE_WAIT_TIME"), std::string::npos);
  EXPECT_NE(help.find("30s"), std::string::npos);
  EXPECT_NE(help.find("anna"), std::string::npos);
  EXPECT_NE(help.find("{red,blue}"), std::string::npos) << help;
}

TEST(GivesFlagTest, SeesBothFormsUpToADoubleDash) {
  EXPECT_TRUE(GivesFlag({"--a", "1"}, "--a"));
  EXPECT_TRUE(GivesFlag({"--a=1"}, "--a"));
  EXPECT_FALSE(GivesFlag({"--ab=1"}, "--a"));
  EXPECT_FALSE(GivesFlag({"--", "--a"}, "--a"));
}

}  // namespace
}  // namespace nibble
