#include "engine/quantize/methods/scheme.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace nibble::quantize {
namespace {

constexpr absl::string_view kKnown =
    "int2..int8 with -sym, -full or -asym, nf4, fp4, e4m3, e5m2; then -tensor, -channel, -gN (-bN "
    "for nf4 and fp4), or -block for fp8; then -dq for nf4 and fp4, and -mse";

absl::Status Unknown(absl::string_view name, absl::string_view part) {
  return absl::InvalidArgumentError(
      absl::StrCat("scheme '", name, "': '", part, "' is not known; there is ", kKnown));
}

bool IsTable(GridKind grid) { return grid == GridKind::kNf4 || grid == GridKind::kFp4; }
bool IsFloat(GridKind grid) { return grid == GridKind::kE4m3 || grid == GridKind::kE5m2; }

// "int4" with the word after it, "nf4", "e4m3"; `at` moves past what was read.
absl::Status ParseGrid(absl::string_view name, const std::vector<std::string>& words, size_t& at,
                       Scheme& scheme) {
  const std::string& first = words[at++];
  absl::string_view bits = first;
  if (absl::ConsumePrefix(&bits, "int")) {
    const std::string kind = at < words.size() ? words[at++] : "";
    if (!absl::SimpleAtoi(bits, &scheme.bits) || scheme.bits < 2 || scheme.bits > 8) {
      return Unknown(name, first);
    }
    scheme.f16_scales = scheme.bits < 8;
    if (kind == "sym")
      scheme.grid = GridKind::kSymmetric;
    else if (kind == "full")
      scheme.grid = GridKind::kFullRange;
    else if (kind == "asym")
      scheme.grid = GridKind::kAsymmetric;
    else
      return Unknown(name, kind);
    return absl::OkStatus();
  }
  scheme.f16_scales = false;
  scheme.bits = first == "nf4" || first == "fp4" ? 4 : 8;
  if (first == "nf4")
    scheme.grid = GridKind::kNf4;
  else if (first == "fp4")
    scheme.grid = GridKind::kFp4;
  else if (first == "e4m3")
    scheme.grid = GridKind::kE4m3;
  else if (first == "e5m2")
    scheme.grid = GridKind::kE5m2;
  else
    return Unknown(name, first);
  return absl::OkStatus();
}

absl::Status ParseGranularity(absl::string_view name, const std::string& word, Scheme& scheme) {
  absl::string_view size = word;
  if (word == "tensor") {
    scheme.granularity = Granularity::kTensor;
  } else if (word == "channel") {
    scheme.granularity = Granularity::kChannel;
  } else if (word == "block" && IsFloat(scheme.grid)) {
    scheme.granularity = Granularity::kBlock;
  } else if (absl::ConsumePrefix(&size, IsTable(scheme.grid) ? "b" : "g") &&
             absl::SimpleAtoi(size, &scheme.group) && scheme.group >= 16) {
    scheme.granularity = Granularity::kGroup;
  } else {
    return Unknown(name, word);
  }
  if (scheme.granularity != Granularity::kGroup) scheme.group = 0;
  return absl::OkStatus();
}

std::string GridName(const Scheme& scheme) {
  switch (scheme.grid) {
    case GridKind::kSymmetric:
      return absl::StrCat("int", scheme.bits, "-sym");
    case GridKind::kFullRange:
      return absl::StrCat("int", scheme.bits, "-full");
    case GridKind::kAsymmetric:
      return absl::StrCat("int", scheme.bits, "-asym");
    case GridKind::kNf4:
      return "nf4";
    case GridKind::kFp4:
      return "fp4";
    case GridKind::kE4m3:
      return "e4m3";
    case GridKind::kE5m2:
      return "e5m2";
  }
  return "";
}

std::string GranularityName(const Scheme& scheme) {
  switch (scheme.granularity) {
    case Granularity::kTensor:
      return "tensor";
    case Granularity::kChannel:
      return "channel";
    case Granularity::kBlock:
      return "block";
    case Granularity::kGroup:
      return absl::StrCat(IsTable(scheme.grid) ? "b" : "g", scheme.group);
  }
  return "";
}

}  // namespace

absl::StatusOr<Scheme> ParseScheme(absl::string_view name) {
  const std::vector<std::string> words = absl::StrSplit(name, '-');
  Scheme scheme;
  size_t at = 0;
  NIBBLE_RETURN_IF_ERROR(ParseGrid(name, words, at, scheme));
  NIBBLE_RETURN_IF_ERROR(ParseGranularity(name, at < words.size() ? words[at] : "", scheme));
  ++at;
  if (at < words.size() && words[at] == "dq" && IsTable(scheme.grid) &&
      scheme.granularity == Granularity::kGroup) {
    scheme.double_quantized = true;
    ++at;
  }
  if (at < words.size() && words[at] == "mse") {
    scheme.range = RangeChoice::kLeastError;
    ++at;
  }
  if (at < words.size()) return Unknown(name, words[at]);
  return scheme;
}

std::string SchemeName(const Scheme& scheme) {
  return absl::StrCat(GridName(scheme), "-", GranularityName(scheme),
                      scheme.double_quantized ? "-dq" : "",
                      scheme.range == RangeChoice::kLeastError ? "-mse" : "");
}

absl::Status CheckShape(const Scheme& scheme, int32_t rows, int32_t cols) {
  if (rows < 1 || cols < 1) {
    return absl::InvalidArgumentError(absl::StrCat("a matrix is [", rows, ", ", cols, "]"));
  }
  if (scheme.granularity == Granularity::kGroup && cols % scheme.group != 0) {
    return absl::InvalidArgumentError(absl::StrCat("rows of ", cols, " elements are not whole ",
                                                   "groups of ", scheme.group, "; ",
                                                   SchemeName(scheme), " cannot hold them"));
  }
  return absl::OkStatus();
}

Tile TileOf(const Scheme& scheme, int32_t rows, int32_t cols) {
  switch (scheme.granularity) {
    case Granularity::kTensor:
      return {rows, cols};
    case Granularity::kChannel:
      return {1, cols};
    case Granularity::kGroup:
      return {1, scheme.group};
    case Granularity::kBlock:
      return {kFp8BlockSize, kFp8BlockSize};
  }
  return {};
}

double BitsPerWeight(const Scheme& scheme, int32_t rows, int32_t cols) {
  const Tile tile = TileOf(scheme, rows, cols);
  const auto tiles = [](int32_t n, int32_t size) { return (n + size - 1) / size; };
  const double scales = static_cast<double>(tiles(rows, tile.rows)) * tiles(cols, tile.cols);
  double scale_bits = scheme.f16_scales ? 16 : 32;
  if (scheme.double_quantized) scale_bits = 8 + 32.0 / kNestedBlock;
  if (scheme.grid == GridKind::kAsymmetric) scale_bits += scheme.bits;
  return scheme.bits + scales * scale_bits / (static_cast<double>(rows) * cols);
}

}  // namespace nibble::quantize
