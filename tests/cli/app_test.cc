#include "cli/app.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "tests/cli/fake_service.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

constexpr char kTiny[] = NIBBLE_TEST_DATA "/tiny/tiny-f16.gguf";

struct Ran {
  int code;
  std::string out;
  std::string err;
};

Ran RunWith(const std::vector<std::string>& args,
            const std::map<std::string, std::string>& environment = {}) {
  std::istringstream in;
  std::ostringstream out, err;
  const Environment lookup = [&environment](const std::string& name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  };
  const int code = RunCli(args, lookup, Io{in, out, err});
  return {code, out.str(), err.str()};
}

const std::vector<std::vector<std::string>> kCommands = {
    {"serve"}, {"generate"},           {"tokenize"}, {"inspect"},
    {"bench"}, {"eval", "perplexity"}, {"health"},   {"version"}};

TEST(AppTest, EveryCommandHasHelpOnStdout) {
  EXPECT_EQ(RunWith({"--help"}).code, kExitOk);
  for (std::vector<std::string> args : kCommands) {
    const std::string last = args.back();
    EXPECT_THAT(RunWith({"--help-all"}).out, HasSubstr(last));
    args.push_back("--help");
    const Ran ran = RunWith(args);
    EXPECT_EQ(ran.code, kExitOk) << last;
    EXPECT_GT(ran.out.size(), 40u) << last;
    EXPECT_EQ(ran.err, "") << last;
  }
}

TEST(AppTest, HelpTeachesExamplesDefaultsAndEnvironment) {
  const std::string help = RunWith({"serve", "--help"}).out;
  EXPECT_THAT(help, HasSubstr("NIBBLE_KV_CACHE_MIB"));
  EXPECT_THAT(help, HasSubstr("127.0.0.1:50051"));
  EXPECT_THAT(help, HasSubstr("Examples"));
  EXPECT_THAT(RunWith({"eval", "perplexity", "--help"}).out, HasSubstr("Protocol"));
}

TEST(AppTest, TheVersionIsOneWordFromTheCommandAndAFlag) {
  EXPECT_THAT(RunWith({"version"}).out, ::testing::MatchesRegex("[0-9]+[.][0-9]+[.][0-9]+\n"));
  EXPECT_THAT(RunWith({"--version"}).out, HasSubstr("nibble "));
}

TEST(AppTest, WrongUsageIsTwoAndSaysSoOnStderr) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"dance"},
      {"eval"},
      {"inspect"},
      {"health"},
      {"serve"},
      {"serve", "--no-such-flag"},
      {"serve", "--threads", "many", "--model", "m"},
      {"generate", "--prompt", "a"},
      {"generate", "--model", "m"},
      {"bench", "--repeat", "0"},
      {"bench"},
      {"bench", "--model", "m", "--batch", "0"},
      {"tokenize"},
      {"eval", "perplexity", "--model", "m"},
      {"eval", "perplexity", "--model", "m", "--text", "t", "--skip", "600"},
      {"tokenize", "stray"}};
  for (const auto& args : wrong) {
    const Ran ran = RunWith(args);
    EXPECT_EQ(ran.code, kExitUsage) << ::testing::PrintToString(args);
    EXPECT_EQ(ran.out, "") << ::testing::PrintToString(args);
    EXPECT_NE(ran.err, "") << ::testing::PrintToString(args);
  }
}

TEST(BenchCommandTest, TestsLongerThanTheModelsContextAreToldByTheirFlags) {
  const Ran ran = RunWith({"bench", "--model", kTiny});
  EXPECT_EQ(ran.code, kExitUsage);
  EXPECT_THAT(ran.err, HasSubstr("--prompt-tokens or --context, and --generate-tokens: found 640 "
                                 "tokens together, needed at most 512"));
}

// Scripts tell a command line that can never work from a machine or a file that cannot.
TEST(AppTest, WhatTheFlagsAloneSayIsWrongUsageInEveryCommand) {
  const std::vector<std::string> here = {"--model", kTiny};
  const std::vector<std::string> there = {"--server", "127.0.0.1:1"};
  const auto all = [](std::vector<std::string> args, const std::vector<std::string>& more,
                      std::vector<std::string> wrong) {
    args.insert(args.end(), more.begin(), more.end());
    args.insert(args.end(), wrong.begin(), wrong.end());
    return args;
  };
  const std::vector<std::vector<std::string>> wrong = {
      all({"serve", "--model", kTiny}, {}, {"--device", "gpu"}),
      all({"serve", "--model", kTiny}, {}, {"--block-size", "24"}),
      all({"serve", "--model", kTiny}, {}, {"--max-batch-tokens", "32"}),
      all({"generate", "--prompt", "a"}, here, {"--device", "gpu"}),
      all({"generate", "--prompt", "a"}, here, {"--block-size", "24"}),
      all({"generate", "--prompt", "a"}, here, {"--max-context", "640"}),
      all({"generate", "--prompt", "a"}, there, {"--tls-cert", "c"}),
      all({"generate", "--prompt", "a"}, there, {"--tls-key", "k", "--tls-cert", "c"}),
      all({"health"}, there, {"--tls-key", "c"}),
      all({"inspect"}, there, {"--tls-cert", "c"}),
      all({"health"}, there, {"--tls-server-name", "nibble.example"}),
      all({"serve", "--packed-cache", "off"}, here, {"--share-weights", "--no-reflection"}),
      all({"serve", "--packed-cache", "auto"}, here, {"--share-weights", "--device=cuda"}),
      all({"generate", "--prompt", "a"}, here, {"--share-weights", "--echo"}),
      all({"serve"}, here, {"--cuda-w8a8", "--no-reflection"}),
      all({"serve"}, here, {"--cuda-dependent-launches", "--no-reflection"}),
      all({"serve"}, here, {"--cuda-wide-rows", "--no-reflection"}),
      all({"bench"}, here, {"--cuda-w8a8", "--no-roofline"}),
      all({"generate", "--prompt", "a"}, there, {"--max-context", "128"}),
      all({"generate", "--prompt", "a"}, there, {"--threads", "2"}),
      all({"generate", "--prompt", "a"}, there, {"--kv-cache-mib", "64"}),
      all({"generate", "--prompt", "a"}, there, {"--packed-cache", "auto"}),
      all({"generate", "--prompt", "a"}, here, {"--tls-ca", "ca.pem"}),
      all({"inspect", kTiny}, {}, {"--tls-ca", "ca.pem"}),
      all({"bench"}, here, {"--device", "gpu"}),
      all({"bench"}, here, {"--block-size", "24"}),
      all({"eval", "perplexity", "--text", kTiny}, here, {"--device", "gpu"})};
  for (const auto& args : wrong) {
    const Ran ran = RunWith(args);
    EXPECT_EQ(ran.code, kExitUsage) << ::testing::PrintToString(args) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr(args[args.size() - 2])) << ran.err;
  }
}

// The tiny model with one byte changed: it rotates 33 of the 32 dimensions of a head.
std::string BrokenModel() {
  std::ifstream file(kTiny, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const std::string key = "rope.dimension_count";
  bytes[bytes.find(key) + key.size() + sizeof(uint32_t)] = 33;  // behind the value's type
  const std::string path = ::testing::TempDir() + "/broken.gguf";
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

TEST(AppTest, AModelThatIsBrokenIsAFailureInEveryCommand) {
  const std::string broken = BrokenModel();
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-level", "off"},
           {"generate", "--prompt", "a"},
           {"bench"},
           {"eval", "perplexity", "--text", kTiny}}) {
    std::vector<std::string> full = args;
    full.insert(full.end(), {"--model", broken});
    const Ran ran = RunWith(full);
    EXPECT_EQ(ran.code, kExitFailure) << args[0] << ran.err;
    if (args[0] == "serve") continue;  // its reason is a log line
    EXPECT_THAT(ran.err, HasSubstr(broken)) << args[0];
    EXPECT_THAT(ran.err, HasSubstr("rope.dimension_count")) << args[0];
  }
}

// Only chats need a template.
TEST(AppTest, AModelWhoseChatTemplateCannotBeRenderedServesAllElse) {
  testing::GgufWriter writer = testing::TinyModel({});
  writer.String("tokenizer.chat_template", "{{ messages | frobnicate }}");
  const std::string model = testing::WriteTempFile("template.gguf", writer.Build());
  const std::string text = ::testing::TempDir() + "/template.txt";
  std::ofstream(text) << std::string(200, 'a');
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"bench", "--prompt-tokens", "4", "--generate-tokens", "2", "--repeat", "1",
            "--no-roofline"},
           {"eval", "perplexity", "--text", text, "--window", "16"},
           {"generate", "--prompt", "a", "--max-tokens", "2"},
           {"generate", "--token-ids", "1,2", "--max-tokens", "2"}}) {
    std::vector<std::string> full = args;
    full.insert(full.end(), {"--model", model});
    EXPECT_EQ(RunWith(full).code, kExitOk) << args[0] << RunWith(full).err;
  }
  const Ran chat = RunWith({"generate", "--model", model, "--chat", "a"});
  EXPECT_EQ(chat.code, kExitUsage);
  EXPECT_THAT(chat.err, HasSubstr("INVALID_ARGUMENT: chat: cannot be rendered"));
  EXPECT_THAT(chat.err, HasSubstr("frobnicate"));
  EXPECT_THAT(chat.err, ::testing::Not(HasSubstr(model))) << "no client's affair";
}

TEST(AppTest, AModelThatIsNotThereIsAFailureThatNamesIt) {
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"generate", "--model", "no/such.gguf", "--prompt", "a"},
           {"bench", "--model", "no/such.gguf"},
           {"tokenize", "--model", "no/such.gguf"},
           {"inspect", "no/such.gguf"}}) {
    const Ran ran = RunWith(args);
    EXPECT_EQ(ran.code, kExitFailure) << args[0];
    EXPECT_THAT(ran.err, HasSubstr("no/such.gguf")) << args[0];
  }
}

// A script that reads "0" would go on with half a file.
TEST(AppTest, ResultsThatCouldNotBeWrittenAreAFailure) {
  const Environment nothing = [](const std::string&) { return nullptr; };
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"version"}, {"--help"}, {"tokenize", "--model", kTiny}, {"serve", "--print-config"}}) {
    std::istringstream in("hello");
    std::ofstream full("/dev/full");
    std::ostringstream err;
    EXPECT_EQ(RunCli(args, nothing, Io{in, full, err}), kExitFailure) << args[0];
    EXPECT_THAT(err.str(), HasSubstr("stdout")) << args[0];
  }
}

TEST(PrintConfigTest, ShowsWhatTheCommandLineAndTheEnvironmentMadeOfTheDefaults) {
  const Ran ran =
      RunWith({"serve", "--print-config", "--max-running", "3", "--drain-timeout=1500ms"},
              {{"NIBBLE_MODEL", "env.gguf"},
               {"NIBBLE_MAX_RUNNING", "99"},
               {"NIBBLE_NO_REFLECTION", "true"}});
  EXPECT_EQ(ran.code, kExitOk) << ran.err;
  const nlohmann::json json = nlohmann::json::parse(ran.out);
  EXPECT_EQ(json["model"], "env.gguf");
  EXPECT_EQ(json["max_running"], 3);
  EXPECT_EQ(json["drain_timeout"], "1500ms");
  EXPECT_EQ(json["no_reflection"], true);
  EXPECT_EQ(json["listen"], "127.0.0.1:50051");
  EXPECT_EQ(json["cpu_activations"], "int8");
  EXPECT_EQ(json["kv_cache_type"], "f16");
  EXPECT_EQ(json["log_level"], "info");
}

TEST(PrintConfigTest, EveryFlagIsThereAndHasItsTwinInTheHelp) {
  const nlohmann::json json = nlohmann::json::parse(RunWith({"serve", "--print-config"}).out);
  const std::string help = RunWith({"serve", "--help"}).out;
  EXPECT_GT(json.size(), 30u);
  for (const auto& [key, value] : json.items()) {
    std::string twin = "NIBBLE_" + key;
    for (char& c : twin) c = static_cast<char>(std::toupper(c));
    EXPECT_THAT(help, HasSubstr(twin));
  }
}

// A path is bytes: it ended the program where it was no UTF-8.
TEST(AppTest, APathThatIsNotUtf8IsPrintedAsFarAsItIs) {
  const Ran ran = RunWith({"serve", "--print-config", "--model", "a\xff.gguf"});
  EXPECT_EQ(ran.code, kExitOk);
  EXPECT_EQ(nlohmann::json::parse(ran.out)["model"], "a\uFFFD.gguf");
}

TEST(EnvironmentTest, AVariableForOneCommandDoesNotBreakAnother) {
  EXPECT_EQ(RunWith({"version"}, {{"NIBBLE_THREADS", "many"}}).code, kExitOk);
  EXPECT_EQ(RunWith({"serve", "--print-config"}, {{"NIBBLE_TOP_K", "many"}}).code, kExitOk);
  EXPECT_EQ(RunWith({"serve", "--print-config"}, {{"NIBBLE_THREADS", "many"}}).code, kExitUsage);
}

// What --help says of every twin of a command: "NIBBLE_THREADS" is "INT in [0 - 256]".
std::map<std::string, std::string> TwinsOf(const std::vector<std::string>& command) {
  std::vector<std::string> args = command;
  args.push_back("--help");
  std::istringstream help(RunWith(args).out);
  std::map<std::string, std::string> types;
  std::string type;
  for (std::string line; std::getline(help, line);) {
    if (line.rfind("  --", 0) == 0) {  // "  --threads INT:INT in [0 - 256]=0 Needs: --model  CPU.."
      const size_t begin = std::min(line.find(' ', 2), line.size());
      type = line.substr(begin, line.find("  ", begin) - begin);
      type = type.substr(0, type.find('='));
      type = type.substr(0, type.find(" Needs:"));
      type = type.substr(type.find(':') == std::string::npos ? 0 : type.find(':') + 1);
    }
    const size_t twin = line.find("[NIBBLE_");
    if (twin != std::string::npos) types[line.substr(twin, line.find(']', twin) - twin)] = type;
  }
  return types;
}

TEST(EnvironmentTest, ATwinThatCommandsShareTakesTheSameValuesInEach) {
  std::map<std::string, std::pair<std::string, std::string>> seen;  // twin: type, whose
  int shared = 0;
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"serve"},
                                             {"generate"},
                                             {"tokenize"},
                                             {"inspect"},
                                             {"bench"},
                                             {"eval", "perplexity"},
                                             {"eval", "divergence"},
                                             {"eval", "choices"},
                                             {"eval", "table"},
                                             {"quantize"},
                                             {"health"}}) {
    for (const auto& [twin, type] : TwinsOf(command)) {
      const auto [first, is_new] = seen.try_emplace(twin, type, command.back());
      shared += !is_new;
      EXPECT_EQ(type, first->second.first)
          << twin << " of " << command.back() << " and of " << first->second.second;
    }
  }
  EXPECT_GT(shared, 40) << "the help could not be read";
}

TEST(EnvironmentTest, AListForBenchAndASeedForServeAreNobodyElses) {
  EXPECT_EQ(RunWith({"serve", "--print-config"}, {{"NIBBLE_BENCH_THREADS", "1,2"}}).code, kExitOk);
  EXPECT_EQ(RunWith({"bench", "--model", "m"}, {{"NIBBLE_BENCH_THREADS", "300"}}).code, kExitUsage);
  EXPECT_EQ(RunWith({"inspect", kTiny}, {{"NIBBLE_BENCH_CONTEXT", "128,4096"}}).code, kExitOk);
  FakeService service;
  service.events.emplace_back().mutable_finished();
  EXPECT_EQ(
      RunWith({"generate", "--server", service.address, "--prompt", "a"}, {{"NIBBLE_SEED", "7"}})
          .code,
      kExitOk);
  EXPECT_FALSE(service.seen.sampling().has_seed());
}

TEST(EnvironmentTest, AServerOnTheCommandLineWinsOverAModelInTheEnvironment) {
  FakeService service;
  service.events.emplace_back().mutable_delta()->set_text("from the server");
  service.events.emplace_back().mutable_finished();
  const Ran ran = RunWith({"generate", "--server", service.address, "--prompt", "a"},
                          {{"NIBBLE_MODEL", "no/such.gguf"}});
  EXPECT_EQ(ran.code, kExitOk) << ran.err;
  EXPECT_EQ(ran.out, "from the server\n");
}

TEST(InspectCommandTest, OneThingAtATimeIsLookedAt) {
  const std::vector<std::vector<std::string>> things = {
      {kTiny}, {"--machine"}, {"--server", "127.0.0.1:1"}, {"--plan", "--parameters", "1b"}};
  for (size_t i = 0; i < things.size(); ++i) {
    for (size_t j = 0; j < things.size(); ++j) {
      const bool plan_of_file = i == 0 && j == 3;
      if (i == j || plan_of_file || (i == 3 && j == 0)) continue;
      std::vector<std::string> args = {"inspect"};
      args.insert(args.end(), things[i].begin(), things[i].end());
      args.insert(args.end(), things[j].begin(), things[j].end());
      const Ran ran = RunWith(args);
      EXPECT_EQ(ran.code, kExitUsage) << ::testing::PrintToString(args);
      EXPECT_EQ(ran.out, "") << ::testing::PrintToString(args);
      EXPECT_THAT(ran.err, HasSubstr("needed one of")) << ::testing::PrintToString(args);
    }
  }
  EXPECT_EQ(RunWith({"inspect", kTiny, "--plan"}).code, kExitOk);
}

// A server that other commands are told by the environment is not asked about a file.
TEST(InspectCommandTest, WhatTheCommandLineNamesWinsOverAServerInTheEnvironment) {
  const std::map<std::string, std::string> server = {{"NIBBLE_SERVER", "127.0.0.1:1"}};
  const Ran file = RunWith({"inspect", "--output", "json", kTiny}, server);
  EXPECT_EQ(file.code, kExitOk) << file.err;
  EXPECT_EQ(nlohmann::json::parse(file.out)["path"], kTiny);
  EXPECT_EQ(RunWith({"inspect", "--plan", "--parameters", "1b"}, server).code, kExitOk);
  EXPECT_EQ(RunWith({"inspect", "--machine"}, server).code, kExitOk);
  FakeService service;
  service.model.set_model("the server's");
  EXPECT_THAT(RunWith({"inspect"}, {{"NIBBLE_SERVER", service.address}}).out,
              HasSubstr("the server's"));
}

TEST(EnvironmentTest, WhatIsMeantForAServerIsNoFlagOfTheCommandThatAsksOne) {
  FakeService service;
  service.events.emplace_back().mutable_finished();
  const Ran ran = RunWith({"generate", "--server", service.address, "--prompt", "a"},
                          {{"NIBBLE_THREADS", "2"},
                           {"NIBBLE_KV_CACHE_MIB", "64"},
                           {"NIBBLE_DEVICE", "cuda:0"},
                           {"NIBBLE_SHARE_WEIGHTS", "1"}});
  EXPECT_EQ(ran.code, kExitOk) << ran.err;
}

TEST(GenerateCommandTest, SendsItsFlagsToTheServer) {
  FakeService service;
  service.events.emplace_back().mutable_finished();
  const Ran ran =
      RunWith({"generate", "--server", service.address, "--prompt", "-x [a,b]", "--stop", "",
               "--max-tokens", "0", "--timeout", "5s", "--output", "json"});
  EXPECT_EQ(ran.code, kExitOk) << ran.err;
  EXPECT_EQ(service.seen.text(), "-x [a,b]");
  EXPECT_EQ(service.seen.stopping().stop_size(), 1);
  EXPECT_TRUE(service.seen.stopping().has_max_tokens());
  EXPECT_TRUE(service.deadline_set);
  EXPECT_TRUE(nlohmann::json::parse(ran.out).contains("timings"));
}

// As in a container, where both commands see the same environment.
TEST(HealthCommandTest, TakesTheServersCertificateNotForItsOwn) {
  FakeService service;
  std::map<std::string, std::string> environment = {{"NIBBLE_SERVER", service.address},
                                                    {"NIBBLE_TLS_CERT", "/no/such/server.pem"},
                                                    {"NIBBLE_TLS_KEY", "/no/such/server.key"}};
  const Ran ran = RunWith({"health"}, environment);
  EXPECT_EQ(ran.code, kExitOk) << ran.err;
  environment["NIBBLE_CLIENT_TLS_CERT"] = "client.pem";
  EXPECT_EQ(RunWith({"health"}, environment).code, kExitUsage) << "alone";
}

TEST(HealthCommandTest, AsksTheServerOfTheEnvironment) {
  FakeService service;
  EXPECT_EQ(RunWith({"health"}, {{"NIBBLE_SERVER", service.address}}).code, kExitOk);
  service.health = grpc::health::v1::HealthCheckResponse::NOT_SERVING;
  EXPECT_EQ(RunWith({"health", "--server", service.address}).code, kExitFailure);
}

}  // namespace
}  // namespace nibble
