// How a checkpoint stores one matrix [rows, cols] = [out features, in features]: which tensors it
// is made of, and the canonical form it becomes. One implementation a layout; formats and formulas
// are in their files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/weights/canonical.h"
#include "engine/weights/hf/quantization.h"
#include "engine/weights/hf/tensor_set.h"
#include "kernels/quant/matrix.h"

namespace nibble {

class LinearLayout {
 public:
  virtual ~LinearLayout() = default;
  // Rows first .. first + count - 1. DATA_LOSS for a scale or a value that is not finite, or a file
  // that became shorter. REQUIRES: a range within the rows, `first` a multiple of row_multiple().
  virtual absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const = 0;

  int32_t rows() const { return rows_; }
  int32_t cols() const { return cols_; }
  int32_t row_multiple() const { return row_multiple_; }
  const std::string& type() const { return type_; }  // "GPTQ int4 g128"
  int64_t file_bytes() const { return file_bytes_; }
  const CanonicalForm& form() const { return form_; }
  // Scales on a device, an offset counted as one: canonical.h's count knows only groups of a row.
  int64_t canonical_bytes() const;

 protected:
  int32_t rows_ = 0;
  int32_t cols_ = 0;
  int32_t row_multiple_ = 1;  // 128 where a scale covers blocks of 128 rows
  std::string type_;
  int64_t file_bytes_ = 0;
  CanonicalForm form_;
};

// The tensors "<module>.<suffix>" of one module.
class ModuleTensors {
 public:
  ModuleTensors(const TensorSet& set, absl::string_view module) : set_(set), module_(module) {}

  const std::string& module() const { return module_; }
  const StoredTensor* Find(absl::string_view suffix) const;  // null: absent
  // NOT_FOUND, or INVALID_ARGUMENT "tensor '<name>' is <what>, needed <shape>".
  absl::StatusOr<const StoredTensor*> Get(absl::string_view suffix,
                                          std::vector<int64_t> shape) const;
  // Of any shape.
  absl::StatusOr<const StoredTensor*> Get(absl::string_view suffix) const;
  int64_t TotalBytes() const;  // of all tensors of the module

 private:
  const TensorSet& set_;
  std::string module_;
};

inline constexpr int64_t kMaxMatrixSide = 1 << 30;  // as quant::Validate

// Looks at the tensors of the module, checks their types and shapes, and reads little of them.
// UNIMPLEMENTED names a layout or a variant that is not read, INVALID_ARGUMENT, NOT_FOUND and
// DATA_LOSS a tensor. `tensors.set()` must outlive the layout.
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenLinear(const ModuleTensors& tensors,
                                                         const QuantConfig& config);

// Each layout's own, called by OpenLinear.
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenPlain(const ModuleTensors& tensors);
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenGptq(const ModuleTensors& tensors,
                                                       const QuantConfig& config);
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenAwq(const ModuleTensors& tensors);
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenPackedInt(const ModuleTensors& tensors);
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenScaledInt8(const ModuleTensors& tensors);
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenScaledFp8(const ModuleTensors& tensors);
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenBnb4(const ModuleTensors& tensors);
absl::StatusOr<std::unique_ptr<LinearLayout>> OpenBnbInt8(const ModuleTensors& tensors);

// The canonical kinds of an affine matrix s * (q - z), q of 1 to 8 bits.
enum class AffineForm {
  kAffine,  // int4-affine or int8, offsets -z * s: exact where s has 16 bits (f16, bf16)
  kTable,   // lut4: one z for all, any s
  kSigned,  // int8, q - z: any s, up to 4 bits
  kValues   // f32: scales that do not follow the columns, or 8 bits with z and a wide s
};
// `narrow_scales`: of 16 bits. `one_zero`: z is the same everywhere.
AffineForm ChooseAffineForm(int bits, bool narrow_scales, bool one_zero);
CanonicalForm FormOfAffine(AffineForm form, int bits, int32_t group, bool one_zero,
                           bool scales_are_f16);

// Codes of rows x cols elements, unsigned, one a byte, row by row; scales and zeros
// [rows, cols / group], row by row.
struct AffineCodes {
  int bits = 4;
  int32_t rows = 0;
  int32_t cols = 0;
  int32_t group = 0;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> zeros;     // or one for all
  std::vector<int32_t> group_of;  // [cols]; empty: column / group
};
quant::Matrix MakeAffine(const AffineCodes& codes, AffineForm form);

// Value `index` of a stream of `bits`-bit values, the first in the lowest bits of the first word:
// how GPTQ and compressed-tensors pack along a dimension; one that straddles two words too.
// `stride` is the distance of neighbouring words of the stream.
uint32_t UnpackBits(const uint32_t* words, int64_t stride, int64_t index, int bits);
std::vector<uint32_t> ToWords(const std::vector<uint8_t>& bytes);

// Row rows[i] of `matrix` becomes row i. INVALID_ARGUMENT where rows that share a scale come from
// rows that do not.
absl::StatusOr<quant::Matrix> GatherRows(const quant::Matrix& matrix,
                                         absl::Span<const int32_t> rows);

}  // namespace nibble
