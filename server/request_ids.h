// Names of calls: a random prefix of this process and a count, "5e0c91d2-17". Only names: nothing
// can be done with one.
#pragma once

#include <atomic>
#include <cstdint>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace nibble {

class RequestIds {
 public:
  RequestIds() : prefix_(absl::StrFormat("%08x", std::random_device{}())) {}
  std::string Next() { return absl::StrCat(prefix_, "-", ++count_); }  // any thread

 private:
  const std::string prefix_;
  std::atomic<uint64_t> count_{0};
};

}  // namespace nibble
