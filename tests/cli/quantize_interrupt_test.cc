// Ctrl-C while there is a scratch file: a command in a process of its own, which gets the signal
// when it has said a certain thing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/app.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int kBarCells = 30;  // of a whole bar (progress.cc)

// Sends the process SIGINT as soon as `word` has been written.
class InterruptAt final : public std::stringbuf {
 public:
  explicit InterruptAt(std::string word) : word_(std::move(word)) {}

 private:
  int sync() override {
    if (sent_ || str().find(word_) == std::string::npos) return 0;
    sent_ = true;
    kill(getpid(), SIGINT);
    sigset_t pending;  // until the thread that waits for signals has it
    do {
      sigpending(&pending);
    } while (sigismember(&pending, SIGINT) == 1);
    return 0;
  }

  const std::string word_;
  bool sent_ = false;
};

class QuantizeInterruptTest : public ::testing::Test {
 protected:
  QuantizeInterruptTest() {
    testing::TinyModelOptions options;
    options.hidden = 256;
    options.matrix_type = options.embedding_type = GgmlType::kF16;
    model_ = testing::WriteTempFile("interrupt.gguf", testing::TinyModel(options).Build());
    folder_ = fs::path(::testing::TempDir()) / absl::StrCat("nibble_interrupt_", getpid());
    fs::remove_all(folder_);
    fs::create_directory(folder_);
  }
  ~QuantizeInterruptTest() override { fs::remove_all(folder_); }

  // The exit code of the command, on a terminal so that it shows its bars; -signal.
  int CodeOf(const std::vector<std::string>& args, const std::string& word) const {
    const pid_t child = fork();
    if (child == 0) {
      setenv("TMPDIR", folder_.c_str(), 1);
      std::istringstream in;
      std::ostringstream out;
      InterruptAt buffer(word);
      std::ostream err(&buffer);
      const Io io{in, out, err, false, true};
      _exit(RunCli(args, [](const std::string&) -> const char* { return nullptr; }, io));
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::vector<std::string> Left() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path());
    return names;
  }

  std::string model_;
  fs::path folder_;
};

using Args = std::vector<std::string>;

TEST_F(QuantizeInterruptTest, TheBasesFileGoesWithTheRun) {
  const Args beside = {"--output", folder_ / "out.gguf"}, temporary = {"--dry-run"};
  for (const Args& where : {beside, temporary}) {
    Args args = {"quantize", "--model", model_, "--sensitivity"};
    args.insert(args.end(), {"--budget-windows", "2000", "--calibration-length", "32"});
    args.insert(args.end(), where.begin(), where.end());
    EXPECT_EQ(CodeOf(args, "reading the text ["), kExitInterrupted);
    EXPECT_THAT(Left(), ::testing::IsEmpty());
  }
}

// Nothing looked at the flag any more, and the file was written.
TEST_F(QuantizeInterruptTest, ASignalAfterTheLastTensorCountsToo) {
  Args args = {"quantize", "--model", model_, "--output", folder_ / "out.gguf", "--sensitivity"};
  args.insert(args.end(), {"--budget-windows", "1", "--calibration-length", "32"});
  const std::string full = absl::StrCat("measuring tensors [", std::string(kBarCells, '#'), "]");
  EXPECT_EQ(CodeOf(args, full), kExitInterrupted);
  EXPECT_THAT(Left(), ::testing::IsEmpty());
}

TEST_F(QuantizeInterruptTest, TheTablesMixGoesWithTheRun) {
  const std::string text = testing::WriteTempFile("interrupt.txt", std::vector<uint8_t>(2000, 'a'));
  EXPECT_EQ(CodeOf({"eval", "table", "--model", model_, "--text", text, "--window", "32",
                    "--methods", "ggml-q4_0", "--decode-tokens", "0"},
                   "ggml-q4_0 ["),
            kExitInterrupted);
  EXPECT_THAT(Left(), ::testing::IsEmpty());
}

}  // namespace
}  // namespace nibble
