#include "cli/app.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "cli/bench.h"
#include "cli/eval_choices.h"
#include "cli/eval_divergence.h"
#include "cli/eval_perplexity.h"
#include "cli/eval_table.h"
#include "cli/generate.h"
#include "cli/health.h"
#include "cli/inspect.h"
#include "cli/quantize.h"
#include "cli/serve.h"
#include "cli/tokenize.h"
#include "cli/version.h"

namespace nibble {
namespace {

constexpr char kAbout[] =
    "nibble: quantized language models over gRPC.\n"
    "A flag's environment twin is named in brackets; the command line wins.\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

constexpr char kServeFooter[] = R"(
Examples
  nibble serve --model models/SmolLM2-135M-Instruct.Q4_1.gguf
  nibble serve --model m.gguf --listen 127.0.0.1:0 --port-file ports.json --metrics-listen 127.0.0.1:0
  nibble serve --model m.gguf --listen 0.0.0.0:443 --tls-cert s.pem --tls-key s.key --tls-client-ca ca.pem

SIGTERM or Ctrl-C drains: health turns NOT_SERVING, new calls are refused, running ones finish or end as DRAINED within
--drain-timeout, exit 0. A second signal exits at once with 128 + signal. Log lines are JSON on stderr,
and where that is no terminal all of it is; --log-level off leaves it empty.)";

constexpr char kGenerateFooter[] = R"(
Examples
  nibble generate --model m.gguf --chat 'Why is the sky blue?' --max-tokens 32 --temperature 0
  nibble generate --server 127.0.0.1:50051 --prompt 'Once upon a time' --max-tokens 64 --seed 7
  nibble generate --model m.gguf --token-ids 1,2,3 --max-tokens 0 --prompt-logprobs 3 --output json

JSON: text, token_ids, finish_reason (eos, stop_sequence, stop_token, max_tokens, context_length, deadline, drained),
usage, timings (milliseconds), seed; logprobs and prompt_logprobs when asked for, one entry a position. Log
probabilities are natural, over the whole vocabulary, before temperature and filters.)";

constexpr char kTokenizeFooter[] = R"(
Examples
  echo -n 'hello world' | nibble tokenize --model m.gguf              [28120, 905]
  echo '[28120, 905]' | nibble tokenize --model m.gguf --decode       hello world
  echo '"hello"' | nibble tokenize --model m.gguf --jsonl             one array a line)";

constexpr char kInspectFooter[] = R"(
Reads the file's directory, not its weights. Exit code 1 when the file is corrupt or cannot be served; the report is
printed either way.

--plan needs no file: the memory a model takes is arithmetic.
  weights    parameters x bits a weight / 8. A format is N-bit (codes alone), a ggml type (q4_k) or a scheme of `nibble
             eval table` (int4-asym-g128, nf4-b64-dq), whose bits count scales and zero points. "loaded here" is what
             this program holds: wider where it has no kernel for a format. Norms and biases stay f32.
  KV cache   2 (k and v) x layers x kv heads x head_dim x bytes of the type, a token. Blocks are handed out whole.
  fit        blocks in (memory - loaded weights), over the blocks of a full sequence; activations are not counted.
GB is 10^9 bytes, GiB 2^30: 16 sequences whose cache takes 2 GiB each take 32 GiB, which are 34.4 GB.

Examples
  nibble inspect m.gguf --tensors
  nibble inspect --machine               CPU, caches, the instruction set that is chosen, and why
  nibble inspect --plan --parameters 70b --formats 16-bit,4-bit,q4_k          140 GB, 35 GB, and what 4 bits really take
  nibble inspect --plan --layers 32 --heads 32 --head-dim 128 --context 4096 --sequences 16                32 GiB of cache
  nibble inspect --plan random:llama-3.1-70b --memory 80GB --context 8192     a known shape on one device
  nibble inspect --plan m.gguf --memory 4GiB --output json)";

constexpr char kBenchFooter[] = R"(
prefill: N prompts of --prompt-tokens together, for every batch N. decode: --generate-tokens for N sequences together,
from --context tokens in the cache of each; a context is filled once, untimed. Rates are sums over the N sequences.
Tests are interleaved --repeat times; thread counts and cache types follow one another. Lists are N,N,...

The roofline columns: GB/s and GMAC/s a test reached, and the share of what this machine was measured to reach, on as
many threads, just before. Bytes: the packed weights once a step, k and v of every position seen once a step, and of
every new one once more. MACs: linear and attention. The bandwidth is of a streaming read over as many bytes as the
weights have; one over a buffer no cache holds is printed beside it. The peak is of byte products in registers, for
attention of f32 ones, or of bf16 where it multiplies in bf16 (see --cpu-activations). A barrier is what lies between
two ops of all threads: several times as long where their cores share no cache.

JSON: {"machine":{"cpu","isa","threads","version","why","bandwidth_gb_per_s","memory_gb_per_s","peak_gmac_per_s",
"barrier_us",..},"model":{"file","weights_bytes",..},"results":[{"test","prompt_tokens","generate_tokens","context",
"batch","threads","kv_cache_type","tokens_per_second":{"median","min","max"},"roofline":{"bytes","macs" (of all tokens
of one repetition),"bytes_per_token","macs_per_token","gb_per_s","gmac_per_s","bandwidth_share","peak_share"}},..]}

Examples
  nibble bench --model m.gguf --prompt-tokens 512 --generate-tokens 128 --batch 1,8,32
  nibble bench --model m.gguf --prompt-tokens 0 --context 128,4096           only decode, at two depths
  nibble bench --model m.gguf --threads 1,2 --output json > before.json
  nibble bench --model m.gguf --threads 1,2 --compare before.json)";

// The commands, each with the memory its flags are parsed into.
class Commands {
 public:
  Commands() : app_(kAbout, "nibble") {
    app_.require_subcommand(1);
    app_.set_version_flag("--version", std::string("nibble ") + kVersion);
    app_.set_help_all_flag("--help-all", "Help of every subcommand");
    AddServe();
    AddGenerate();
    AddTokenize();
    AddInspect();
    AddEval();
    AddQuantize();
    AddBench();
    AddHealth();
    Add(app_, "version", "Print the version", [](const Io& io) {
      io.out << kVersion << std::endl;
      return kExitOk;
    });
  }

  int Run(const std::vector<std::string>& args, const Environment& environment, const Io& io) {
    try {
      Parse(args, environment);
    } catch (const CLI::ParseError& error) {
      return app_.exit(error, io.out, io.err) == 0 ? kExitOk : kExitUsage;
    }
    for (const Command& command : commands_) {
      if (!command.app->parsed()) continue;
      if (const absl::Status usage = command.flags->Check(); !usage.ok()) {
        return WrongUsage(io, usage);
      }
      return command.run(io);
    }
    return kExitUsage;
  }

 private:
  using RunFunction = std::function<int(const Io&)>;
  struct Command {
    CLI::App* app;
    std::unique_ptr<Flags> flags;
    RunFunction run;
    std::vector<std::string> path;  // the words that choose it
  };

  // The environment's values become arguments of the chosen command, in front of the given ones.
  void Parse(const std::vector<std::string>& args, const Environment& environment) {
    args_ = args;
    std::vector<std::string> full = args;
    for (const Command& command : commands_) {
      const size_t words = command.path.size();
      if (args.size() < words ||
          !std::equal(command.path.begin(), command.path.end(), args.begin())) {
        continue;
      }
      const std::vector<std::string> given(args.begin() + static_cast<std::ptrdiff_t>(words),
                                           args.end());
      const std::vector<std::string> extra = command.flags->EnvironmentArgs(given, environment);
      full.insert(full.begin() + static_cast<std::ptrdiff_t>(words), extra.begin(), extra.end());
    }
    app_.parse(std::vector<std::string>(full.rbegin(), full.rend()));  // CLI11 takes them reversed
  }

  Flags& Add(CLI::App& parent, const std::string& name, const std::string& about, RunFunction run) {
    CLI::App* app = parent.add_subcommand(name, about);
    std::vector<std::string> path = {name};
    if (&parent != &app_) path.insert(path.begin(), parent.get_name());
    commands_.push_back({app, std::make_unique<Flags>(*app), std::move(run), std::move(path)});
    return *commands_.back().flags;
  }

  void AddServe() {
    Flags& flags = Add(app_, "serve", "Serve a model over gRPC",
                       [this](const Io& io) { return RunServe(serve_, serve_values_(), io); });
    AddServeFlags(flags, serve_);
    flags.App().add_flag("--print-config", serve_.print_config,
                         "Print the effective configuration as JSON and exit");
    serve_values_ = [&flags] { return flags.Values(); };
    flags.App().footer(kServeFooter);
  }
  void AddGenerate() {
    Flags& flags = Add(app_, "generate", "Complete a prompt, here or on a server",
                       [this](const Io& io) { return RunGenerate(generate_, io); });
    AddGenerateFlags(flags, generate_);
    flags.App().footer(kGenerateFooter);
  }
  void AddTokenize() {
    Flags& flags = Add(app_, "tokenize", "Text on stdin to token ids, or back",
                       [this](const Io& io) { return RunTokenize(tokenize_, io); });
    AddTokenizeFlags(flags, tokenize_);
    flags.App().footer(kTokenizeFooter);
  }
  void AddInspect() {
    Flags& flags = Add(app_, "inspect", "Say what a model file or this machine is",
                       [this](const Io& io) { return RunInspect(inspect_, io); });
    AddInspectFlags(flags, inspect_);
    flags.App().footer(kInspectFooter);
  }
  void AddEval() {
    CLI::App* eval = app_.add_subcommand("eval", "Measure a model's quality");
    eval->require_subcommand(1);
    Flags& flags = Add(*eval, "perplexity", "Perplexity of a text",
                       [this](const Io& io) { return RunPerplexity(perplexity_, io); });
    AddPerplexityFlags(flags, perplexity_);
    flags.App().footer(PerplexityFooter());
    Flags& more = Add(*eval, "divergence", "KL divergence between two configurations on a text",
                      [this](const Io& io) { return RunDivergence(divergence_, io); });
    AddDivergenceFlags(more, divergence_);
    more.App().footer(DivergenceFooter());
    Flags& questions = Add(*eval, "choices", "Multiple-choice accuracy (HellaSwag's format)",
                           [this](const Io& io) { return RunChoices(choices_, io); });
    AddChoicesFlags(questions, choices_);
    questions.App().footer(ChoicesFooter());
    Flags& table = Add(*eval, "table", "Compare methods of quantization on a model",
                       [this](const Io& io) { return RunTable(table_, io); });
    AddTableFlags(table, table_);
    table.App().footer(TableFooter());
  }
  void AddQuantize() {
    Flags& flags = Add(app_, "quantize", "Write a model file in other types", [this](const Io& io) {
      quantize_.command_line = args_;
      return RunQuantize(quantize_, io);
    });
    AddQuantizeFlags(flags, quantize_);
    flags.App().footer(QuantizeFooter());
  }
  void AddBench() {
    Flags& flags = Add(app_, "bench", "Measure a model's speed on this machine",
                       [this](const Io& io) { return RunBench(bench_, io); });
    AddBenchFlags(flags, bench_);
    flags.App().footer(kBenchFooter);
  }
  void AddHealth() {
    Flags& flags = Add(app_, "health", "Ask a server whether it serves; exit code 0 when it does",
                       [this](const Io& io) { return RunHealth(health_, io); });
    AddHealthFlags(flags, health_);
    flags.App().footer("\nExample\n  nibble health --server 127.0.0.1:50051");
  }

  CLI::App app_;
  std::vector<std::string> args_;  // as they were given, before the environment's
  ServeFlags serve_;
  GenerateFlags generate_;
  TokenizeFlags tokenize_;
  InspectFlags inspect_;
  PerplexityFlags perplexity_;
  DivergenceFlags divergence_;
  ChoicesFlags choices_;
  QuantizeFlags quantize_;
  TableFlags table_;
  BenchFlags bench_;
  HealthFlags health_;
  std::function<nlohmann::ordered_json()> serve_values_;
  std::vector<Command> commands_;
};

}  // namespace

int RunCli(const std::vector<std::string>& args, const Environment& environment, const Io& io) {
  Commands commands;
  const int code = commands.Run(args, environment, io);
  io.out.flush();
  if (io.out || code != kExitOk) return code;
  return Fail(io,
              absl::DataLossError("stdout: took only a part of the results; is the disk full?"));
}

}  // namespace nibble
