// The two macros for absl::Status: return an error early, and unwrap a StatusOr or return its error.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define NIBBLE_RETURN_IF_ERROR(expr)                       \
  do {                                                     \
    if (absl::Status nibble_status = (expr); !nibble_status.ok()) { \
      return nibble_status;                                \
    }                                                      \
  } while (0)

#define NIBBLE_CONCAT_INNER(a, b) a##b
#define NIBBLE_CONCAT(a, b) NIBBLE_CONCAT_INNER(a, b)

#define NIBBLE_ASSIGN_OR_RETURN(lhs, expr) \
  NIBBLE_ASSIGN_OR_RETURN_INNER(NIBBLE_CONCAT(nibble_statusor_, __LINE__), lhs, expr)
#define NIBBLE_ASSIGN_OR_RETURN_INNER(statusor, lhs, expr) \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return statusor.status();            \
  lhs = std::move(statusor).value()
