#include "cli/progress.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

constexpr int kBarCells = 30;
constexpr int kLogStepPercent = 25;

}  // namespace

Progress::Progress(std::ostream& err, bool terminal, std::string what,
                   std::function<void(const std::string&)> log, const Clock* clock)
    : err_(err), terminal_(terminal), what_(std::move(what)), log_(std::move(log)), clock_(clock) {
  if (clock_ != nullptr) start_ = clock_->Now();
}

Progress::~Progress() {
  if (terminal_ && last_percent_ >= 0) err_ << "\r\033[K" << std::flush;
}

void Progress::QuietFor(Duration delay, const Clock& clock) {
  if (clock_ == nullptr) start_ = clock.Now();
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
         << "] " << percent << "%" << TimeLeft(done, total) << "\033[K" << std::flush;
  } else if (log_ && percent / kLogStepPercent != last_percent_ / kLogStepPercent &&
             percent >= kLogStepPercent) {
    log_(absl::StrCat(what_, " ", percent, "%"));
  }
  last_percent_ = percent;
}

std::string Progress::TimeLeft(int64_t done, int64_t total) const {
  if (clock_ == nullptr || done <= 0) return "";
  const double share_left = static_cast<double>(total - done) / static_cast<double>(done);
  const auto seconds = static_cast<int64_t>(Seconds(clock_->Now() - start_) * share_left + 0.5);
  if (seconds < 60) return absl::StrCat(", ", seconds, " s left");
  if (seconds < 3600) return absl::StrCat(", ", seconds / 60, " min ", seconds % 60, " s left");
  return absl::StrCat(", ", seconds / 3600, " h ", seconds / 60 % 60, " min left");
}

}  // namespace nibble
