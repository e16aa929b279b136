#include "cli/inspect_machine.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

std::string SizeText(int64_t bytes) {
  return bytes < (1 << 20) ? absl::StrCat(bytes >> 10, " KiB") : absl::StrCat(bytes >> 20, " MiB");
}

std::string KnownOr(const std::string& text) { return text.empty() ? "unknown" : text; }

std::string ChosenIsa(const MachineInfo& machine) {
  for (const IsaInfo& isa : machine.isas) {
    if (isa.chosen) return isa.name;
  }
  return "";
}

std::vector<std::string> OtherIsas(const MachineInfo& machine) {
  std::vector<std::string> others;
  for (const IsaInfo& isa : machine.isas) {
    if (!isa.chosen) others.push_back(isa.name);
  }
  return others;
}

}  // namespace

Json MachineJson(const MachineInfo& machine, const absl::Status& cuda) {
  Json json = {{"cpu", machine.cpu},
               {"architecture", machine.architecture},
               {"cpus", machine.num_cpus},
               {"usable_cpus", machine.num_usable},
               {"cgroup_cpus", machine.cgroup_cpus},
               {"cores", machine.num_cores},
               {"sockets", machine.num_sockets},
               {"numa_nodes", machine.num_numa_nodes},
               {"memory_bytes", machine.memory_bytes},
               {"caches", Json::array()},
               {"features", machine.features},
               {"isa", ChosenIsa(machine)},
               {"why", machine.why},
               {"attention", machine.attention},
               {"other_isas", OtherIsas(machine)},
               {"cuda", {{"usable", cuda.ok()}, {"why", std::string(cuda.message())}}}};
  for (const CacheInfo& cache : machine.caches) {
    json["caches"].push_back({{"level", cache.level},
                              {"type", cache.type},
                              {"size_bytes", cache.size_bytes},
                              {"instances", cache.instances}});
  }
  return json;
}

void PrintMachineText(const MachineInfo& machine, const absl::Status& cuda, std::ostream& out) {
  const auto line = [&out](absl::string_view name, absl::string_view value) {
    out << absl::StreamFormat("%-14s %s\n", name, value);
  };
  line("cpu", absl::StrCat(KnownOr(machine.cpu), ", ", KnownOr(machine.architecture)));
  line("cores", absl::StrFormat("%d, %d hardware threads, %d usable by this process, %d sockets",
                                machine.num_cores, machine.num_cpus, machine.num_usable,
                                machine.num_sockets));
  if (machine.cgroup_cpus > 0) line("cpu limit", absl::StrFormat("%g cpus", machine.cgroup_cpus));
  line("numa nodes", absl::StrCat(machine.num_numa_nodes));
  line("memory", SizeText(machine.memory_bytes));
  for (const CacheInfo& cache : machine.caches) {
    line(absl::StrCat("cache L", cache.level),
         absl::StrFormat("%d x %s, %s", cache.instances, SizeText(cache.size_bytes), cache.type));
  }
  line("features", KnownOr(absl::StrJoin(machine.features, " ")));
  line("chosen", ChosenIsa(machine));
  line("why", machine.why);
  line("attention", machine.attention);
  const std::vector<std::string> others = OtherIsas(machine);
  line("could run too", others.empty()
                            ? "nothing else"
                            : absl::StrCat(absl::StrJoin(others, ", "), " (--cpu-isa forces one)"));
  line("cuda", cuda.ok() ? "cuda:0 is usable (--device cuda:0)" : cuda.message());
  out.flush();
}

int RunInspectMachine(OutputFormat output, const Io& io) {
  const MachineInfo machine = DescribeMachine();
  const absl::Status cuda = CheckCuda(0);
  if (output == OutputFormat::kJson) {
    PrintJson(io.out, MachineJson(machine, cuda), 2);
  } else {
    PrintMachineText(machine, cuda, io.out);
  }
  return kExitOk;
}

}  // namespace nibble
