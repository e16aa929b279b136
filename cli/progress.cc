#include "cli/progress.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

constexpr int kBarCells = 30;
constexpr int kLogStepPercent = 25;

}  // namespace

Progress::Progress(std::ostream& err, bool terminal, std::string what,
                   std::function<void(const std::string&)> log)
    : err_(err), terminal_(terminal), what_(std::move(what)), log_(std::move(log)) {}

Progress::~Progress() {
  if (terminal_ && last_percent_ >= 0) err_ << "\r\033[K" << std::flush;
}

void Progress::QuietFor(Duration delay, const Clock& clock) {
  clock_ = &clock;
  quiet_until_ = clock.Now() + delay;
}

void Progress::Update(int64_t done, int64_t total) {
  if (total <= 0) return;
  if (clock_ != nullptr && clock_->Now() < quiet_until_) return;
  const int percent = static_cast<int>(100.0 * static_cast<double>(done) / total);
  if (percent == last_percent_) return;
  if (terminal_) {
    const int cells = percent * kBarCells / 100;
    err_ << '\r' << what_ << " [" << std::string(cells, '#') << std::string(kBarCells - cells, '.')
         << "] " << percent << "%" << std::flush;
  } else if (log_ && percent / kLogStepPercent != last_percent_ / kLogStepPercent &&
             percent >= kLogStepPercent) {
    log_(absl::StrCat(what_, " ", percent, "%"));
  }
  last_percent_ = percent;
}

}  // namespace nibble
