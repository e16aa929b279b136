// Writes the first corpus of base_file_fuzz into the directory named: small valid files, with
// windows end to end and overlapping.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/eval/base_file.h"
#include "tests/engine/eval/formula_logits.h"

namespace nibble {
namespace {

absl::Status WriteSeed(const std::string& directory, int32_t stride, int32_t bos_id) {
  WindowOptions options;
  options.window = 12;
  options.skip = 3;
  options.stride = stride;
  options.bos_id = bos_id;
  std::vector<int32_t> ids(40);
  for (int32_t i = 0; i < 40; ++i) ids[i] = i * i % kFormulaVocab;
  FormulaLogits base(0);
  return SaveBaseFile(base, ids, options, "a formula",
                      absl::StrCat(directory, "/stride", stride, ".base"), nullptr)
      .status();
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  if (argc != 2 || !nibble::WriteSeed(argv[1], 0, -1).ok() ||
      !nibble::WriteSeed(argv[1], 4, 5).ok()) {
    std::fprintf(stderr, "usage: base_file_fuzz_seeds DIRECTORY (which must exist)\n");
    return 2;
  }
  return 0;
}
