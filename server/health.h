// grpc.health.v1: names and whether they serve. Names are the services', the model's, ""
// (readiness: may traffic come) and "liveness" (does the process work: not touched by loading,
// draining or load).
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace grpc {
class Service;
}

namespace nibble {

class Health {
 public:
  static std::unique_ptr<Health> Create();
  virtual ~Health() = default;

  // Adds the name or changes it; watchers hear of it. Any thread.
  virtual void Set(absl::string_view name, bool serving) = 0;
  // Ends all watches, so that the server can shut down, and refuses new ones.
  virtual void EndWatches() = 0;

  virtual grpc::Service* service() = 0;
};

inline constexpr char kLiveness[] = "liveness";
inline constexpr int kMaxWatches = 256;       // a watch is a call that costs nothing and never ends
inline constexpr size_t kMaxNameBytes = 256;  // of a name nobody knows: a watch keeps it

}  // namespace nibble
