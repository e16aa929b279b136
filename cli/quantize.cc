#include "cli/quantize.h"

#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <system_error>
#include <vector>

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

// One file, or two names that would become one.
bool AreSame(const std::string& a, const std::string& b) {
  struct stat left, right;
  const bool has_left = stat(a.c_str(), &left) == 0;
  const bool has_right = stat(b.c_str(), &right) == 0;
  if (has_left && has_right) {
    return left.st_dev == right.st_dev && left.st_ino == right.st_ino;
  }
  if (has_left || has_right) return false;
  namespace fs = std::filesystem;
  std::error_code ignored;
  return fs::weakly_canonical(fs::absolute(a, ignored), ignored) ==
         fs::weakly_canonical(fs::absolute(b, ignored), ignored);
}

// Before any work: what it would replace at its end.
absl::Status CheckOutputs(const QuantizeFlags& flags) {
  std::vector<NamedFile> others = {
      {"--model", flags.model}, {"--calibration", flags.calibration}, {"--imatrix", flags.imatrix}};
  if (!flags.dry_run) {
    NIBBLE_RETURN_IF_ERROR(CheckOutput({"--output", flags.output}, others, flags.overwrite));
  }
  if (flags.imatrix_output.empty()) return absl::OkStatus();
  others.push_back({"--output", flags.output});
  return CheckOutput({"--imatrix-output", flags.imatrix_output}, others, flags.overwrite);
}

}  // namespace

absl::Status CheckOutput(const NamedFile& output, absl::Span<const NamedFile> others,
                         bool overwrite) {
  for (const NamedFile& other : others) {
    if (other.path.empty() || !AreSame(output.path, other.path)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        output.flag, ": ", output.path, " is the file that ", other.flag, " names; name another"));
  }
  struct stat target;
  if (stat(output.path.c_str(), &target) != 0) return absl::OkStatus();
  if (!S_ISREG(target.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(output.flag, ": ", output.path, " exists and is not a regular file"));
  }
  if (overwrite) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(output.flag, ": ", output.path,
                                               " exists; name another file or give --overwrite"));
}

int RunQuantize(const QuantizeFlags& flags, const Io& io) {
  if (const absl::Status usage = CheckFlags(flags); !usage.ok()) return WrongUsage(io, usage);
  if (!flags.layout.empty()) return RunQuantizeToFolder(flags, io);
  if (const absl::Status outputs = CheckOutputs(flags); !outputs.ok()) {
    return absl::IsInvalidArgument(outputs) ? WrongUsage(io, outputs) : Fail(io, outputs);
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
    PrintJson(io.out, SummaryJson(flags, *summary), 2);
  } else {
    PrintSummary(flags, *summary, io.out);
  }
  return kExitOk;
}

}  // namespace nibble
