// One evaluation, every field of it set and none like another, for the tests of what keeps and
// tells such records.
#pragma once

#include "engine/quantize_record.h"

namespace nibble::testing {

inline EvaluationRecord ExampleEvaluation() {
  EvaluationRecord record;
  record.kl = 0.0069;
  record.kl_standard_error = 0.0001;
  record.kl_p99 = 0.0402;
  record.top1_agreement = 0.9231;
  record.perplexity = 37.315;
  record.perplexity_source = 37.0732;
  record.tokens = 33726;
  record.text_sha256 = "7e7";
  record.protocol = "windows of 512";
  return record;
}

}  // namespace nibble::testing
