// `nibble inspect`: what a model file is, without loading its weights. A corrupt file gives a
// report too.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cli/flags.h"
#include "cli/inspect_plan.h"
#include "cli/io.h"
#include "cli/output.h"
#include "cli/remote.h"
#include "engine/inspect.h"

namespace nibble {

struct InspectFlags {
  std::string file;       // empty: only with one of the next three
  bool machine = false;   // the machine instead of a file
  RemoteFlags remote;     // a server to ask instead of a file
  PlanFlags plan;         // memory arithmetic for the file, or for a shape
  bool tensors = false;   // list every tensor in the text form too
  bool metadata = false;  // likewise every key
  OutputFormat output = OutputFormat::kText;
};

void AddInspectFlags(Flags& flags, InspectFlags& inspect);

nlohmann::ordered_json InspectJson(const InspectReport& report);
void PrintInspectText(const InspectReport& report, const InspectFlags& flags, std::ostream& out);

// 0 for a file that can be served, 1 otherwise; the report is on stdout either way. With --machine
// always 0. Not exactly one of a file, --machine, --server and --plan (of a file or not) is wrong
// usage.
int RunInspect(const InspectFlags& flags, const Io& io);

}  // namespace nibble
