#include "cli/quantize.h"

#include <sys/stat.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "cli/interrupt.h"
#include "cli/model_flags.h"
#include "cli/peak_memory.h"
#include "cli/quantize_budget.h"
#include "cli/quantize_folder.h"
#include "cli/quantize_method.h"
#include "cli/quantize_report.h"
#include "cli/quantize_types.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

// --scheme, --order and --no-resume mean something to a method only.
absl::Status CheckMethodGiven(const QuantizeFlags& flags) {
  if (!flags.method.empty()) return absl::OkStatus();
  const char* given = !flags.scheme.empty()  ? "--scheme"
                      : !flags.order.empty() ? "--order"
                      : flags.no_resume      ? "--no-resume"
                                             : nullptr;
  if (given == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      given, ": is of a --method, which is not given; --type alone names ggml's types"));
}

// What is wrong with the flags, before anything is read.
absl::Status CheckFlags(const QuantizeFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model));
  NIBBLE_RETURN_IF_ERROR(CheckMethodGiven(flags));
  const bool by_types = flags.method.empty() && flags.layout.empty();
  if (!by_types && MeasuresTensors(flags)) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.byte_budget.empty() ? "--sensitivity" : "--byte-budget",
                     ": chooses among ggml's types; leave it out, or --method and --layout"));
  }
  NIBBLE_RETURN_IF_ERROR(!flags.layout.empty()  ? CheckFolderFlags(flags)
                         : flags.method.empty() ? CheckTypeFlags(flags)
                                                : CheckMethodFlags(flags));
  if (flags.dry_run || !flags.output.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--output: found nothing, needed a file to write (or --dry-run)");
}

absl::StatusOr<QuantizeSummary> Quantize(const QuantizeFlags& flags, Interrupt& interrupt,
                                         const Io& io) {
  const SteadyClock clock;
  const Instant start = clock.Now();
  const bool measured = ResetPeakMemory();
  NIBBLE_ASSIGN_OR_RETURN(QuantizeSummary summary, flags.method.empty()
                                                       ? QuantizeToTypes(flags, interrupt, io)
                                                       : QuantizeByMethod(flags, interrupt, io));
  summary.seconds = std::chrono::duration<double>(clock.Now() - start).count();
  summary.peak_bytes = measured ? PeakMemoryBytes() : 0;
  return summary;
}

}  // namespace

absl::Status CheckOutput(const std::string& model, const std::string& output, bool overwrite) {
  struct stat source, target;
  if (stat(output.c_str(), &target) != 0) return absl::OkStatus();
  if (stat(model.c_str(), &source) == 0 && source.st_dev == target.st_dev &&
      source.st_ino == target.st_ino) {
    return absl::InvalidArgumentError(
        absl::StrCat("--output: ", output, " is the file that --model names; name another"));
  }
  if (!S_ISREG(target.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--output: ", output, " exists and is not a regular file"));
  }
  if (overwrite) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("--output: ", output, " exists; name another file or give --overwrite"));
}

int RunQuantize(const QuantizeFlags& flags, const Io& io) {
  if (const absl::Status usage = CheckFlags(flags); !usage.ok()) return WrongUsage(io, usage);
  if (!flags.layout.empty()) return RunQuantizeToFolder(flags, io);
  if (!flags.dry_run) {
    const absl::Status output = CheckOutput(flags.model, flags.output, flags.overwrite);
    if (output.code() == absl::StatusCode::kInvalidArgument) return WrongUsage(io, output);
    if (!output.ok()) return Fail(io, output);
  }
  Interrupt interrupt;
  const absl::StatusOr<QuantizeSummary> summary = Quantize(flags, interrupt, io);
  if (absl::IsCancelled(summary.status())) {
    Fail(io, summary.status());
    return kExitInterrupted;
  }
  if (!summary.ok()) {
    return absl::IsInvalidArgument(summary.status()) ? WrongUsage(io, summary.status())
                                                     : Fail(io, summary.status());
  }
  if (flags.format == OutputFormat::kJson) {
    io.out << SummaryJson(flags, *summary).dump(2) << std::endl;
  } else {
    PrintSummary(flags, *summary, io.out);
  }
  return kExitOk;
}

}  // namespace nibble
