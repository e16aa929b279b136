#include "cli/generate.h"

#include <utility>
#include <variant>

#include "cli/generation_writer.h"
#include "cli/interrupt.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/clock.h"
#include "engine/base/mailbox.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"

namespace nibble {
namespace {

using Event = std::variant<Started, Delta, Outcome>;

// Takes events off the engine's thread: writing to a slow terminal must not hold it up.
class MailboxSink final : public TokenSink {
 public:
  void OnStarted(const Started& started) override { events_.Post(started); }
  Room OnDelta(Delta delta) override {
    events_.Post(std::move(delta));
    return Room::kReady;  // one completion is bounded by the context
  }
  void OnFinished(const Outcome& outcome) override { events_.Post(outcome); }

  // Feeds `writer` until the request ends.
  Outcome WriteAll(GenerationWriter& writer) {
    while (true) {
      events_.Wait(std::nullopt);
      for (const Event& event : events_.Take()) {
        if (const auto* started = std::get_if<Started>(&event)) writer.OnStarted(*started);
        if (const auto* delta = std::get_if<Delta>(&event)) writer.OnDelta(*delta);
        if (const auto* outcome = std::get_if<Outcome>(&event)) return *outcome;
      }
    }
  }

 private:
  Mailbox<Event> events_;
};

absl::StatusOr<LocalModel> Load(const GenerateFlags& flags, const Io& io) {
  const SteadyClock clock;
  Progress progress(io.err, io.err_is_terminal, "loading", nullptr);
  progress.QuietFor(kQuietLoading, clock);
  LoadEvents events;
  events.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  events.note = [&io](const std::string& note) {
    if (io.err_is_terminal) io.err << note << std::endl;
  };
  ModelFlags model = flags.model;
  model.runner.max_sequences = 1;
  return LoadLocalModel(model, events);
}

Outcome Ended(absl::Status status) {
  Outcome outcome;
  outcome.status = std::move(status);
  return outcome;
}

// The outcome of a request that could not be run is one like any other.
Outcome GenerateHere(Engine& engine, GenerateRequest request, Interrupt& interrupt,
                     GenerationWriter& writer) {
  absl::StatusOr<PreparedRequest> prepared = engine.Prepare(std::move(request));
  if (!prepared.ok()) return Ended(prepared.status());
  const auto sink = std::make_shared<MailboxSink>();
  const RequestId id = engine.Submit(*std::move(prepared), sink);
  interrupt.OnInterrupt([&engine, id] { engine.Cancel(id); });
  const Outcome outcome = sink->WriteAll(writer);
  interrupt.OnInterrupt(nullptr);
  return outcome;
}

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(LocalModel& model, const GenerateFlags& flags,
                                                   const Clock& clock) {
  EngineOptions options;
  options.max_running = 1;
  options.max_batch_tokens = flags.model.runner.max_batch_tokens;
  options.prefix_cache = false;
  EngineParts parts;
  parts.runner = std::move(model.runner);
  parts.tokenizer = std::move(model.tokenizer);
  parts.chat_template = std::move(model.chat_template);
  parts.clock = &clock;
  return OfModel(Engine::Create(std::move(parts), options));
}

int GenerateLocally(const GenerateFlags& flags, GenerateRequest request, Interrupt& interrupt,
                    GenerationWriter& writer, const Io& io) {
  const SteadyClock clock;
  absl::StatusOr<LocalModel> model = Load(flags, io);
  if (!model.ok()) return ExitWith(io, model.status());
  absl::StatusOr<std::unique_ptr<Engine>> engine = MakeEngine(*model, flags, clock);
  if (!engine.ok()) return Fail(io, engine.status());
  if (flags.timeout.has_value()) request.deadline = clock.Now() + *flags.timeout;
  const Outcome outcome = GenerateHere(**engine, std::move(request), interrupt, writer);
  return writer.OnFinished(outcome, interrupt.seen());
}

int GenerateRemotely(const GenerateFlags& flags, const GenerateRequest& request,
                     Interrupt& interrupt, GenerationWriter& writer, const Io& io) {
  absl::StatusOr<RemoteChannel> channel = Connect(flags.remote);
  if (!channel.ok()) return ExitWith(io, channel.status());
  RemoteCall call(*channel, request, flags.timeout);
  interrupt.OnInterrupt([&call] { call.Cancel(); });
  const Outcome outcome = call.Run(writer);
  interrupt.OnInterrupt(nullptr);
  return writer.OnFinished(outcome, interrupt.seen());
}

}  // namespace

int RunGenerate(const GenerateFlags& flags, const Io& io) {
  absl::StatusOr<GenerateRequest> request = RequestOf(flags);
  if (!request.ok()) return WrongUsage(io, request.status());
  Interrupt interrupt;
  GenerationWriter writer(io, flags.output, flags.response);
  return flags.remote.server.empty()
             ? GenerateLocally(flags, *std::move(request), interrupt, writer, io)
             : GenerateRemotely(flags, *request, interrupt, writer, io);
}

}  // namespace nibble
