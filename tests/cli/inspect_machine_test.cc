#include "cli/inspect_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "cli/inspect.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

MachineInfo Machine() {
  MachineInfo machine;
  machine.cpu = "Some CPU";
  machine.architecture = "x86_64";
  machine.num_cpus = 8;
  machine.num_usable = 6;
  machine.cgroup_cpus = 1.5;
  machine.num_cores = 4;
  machine.num_sockets = 1;
  machine.num_numa_nodes = 2;
  machine.memory_bytes = int64_t{3} << 30;
  machine.caches = {{1, "Data", 48 << 10, 4}, {3, "Unified", 32 << 20, 1}};
  machine.features = {"avx2", "fma"};
  machine.isas = {{"scalar", false}, {"avx2", true}};
  machine.why = "it is the best";
  machine.attention = "f32 products, because";
  return machine;
}

TEST(MachineJsonTest, HasTheShapeOfTheContract) {
  const nlohmann::ordered_json json =
      MachineJson(Machine(), absl::FailedPreconditionError("no driver"));
  EXPECT_EQ(json["cpu"], "Some CPU");
  EXPECT_EQ(json["cpus"], 8);
  EXPECT_EQ(json["usable_cpus"], 6);
  EXPECT_EQ(json["cgroup_cpus"], 1.5);
  EXPECT_EQ(json["cores"], 4);
  EXPECT_EQ(json["numa_nodes"], 2);
  EXPECT_EQ(json["caches"][1]["size_bytes"], 32 << 20);
  EXPECT_EQ(json["caches"][0]["instances"], 4);
  EXPECT_EQ(json["features"], nlohmann::ordered_json({"avx2", "fma"}));
  EXPECT_EQ(json["isa"], "avx2");
  EXPECT_EQ(json["why"], "it is the best");
  EXPECT_EQ(json["attention"], "f32 products, because");
  EXPECT_EQ(json["cuda"]["usable"], false);
  EXPECT_EQ(json["cuda"]["why"], "no driver");
  EXPECT_EQ(json["other_isas"], nlohmann::ordered_json({"scalar"}));
}

TEST(MachineTextTest, SaysWhatWasChosenWhyAndWhatElseCouldRun) {
  std::ostringstream out;
  PrintMachineText(Machine(), absl::FailedPreconditionError("no driver"), out);
  EXPECT_THAT(out.str(), HasSubstr("4 x 48 KiB, Data"));
  EXPECT_THAT(out.str(), HasSubstr("1 x 32 MiB, Unified"));
  EXPECT_THAT(out.str(), HasSubstr("8 hardware threads, 6 usable"));
  EXPECT_THAT(out.str(), HasSubstr("it is the best"));
  EXPECT_THAT(out.str(), HasSubstr("no driver"));
  EXPECT_THAT(out.str(), HasSubstr("scalar (--cpu-isa forces one)"));
}

TEST(MachineTextTest, WhatIsNotKnownIsSaid) {
  MachineInfo machine;
  machine.isas = {{"scalar", true}};
  std::ostringstream out;
  PrintMachineText(machine, absl::OkStatus(), out);
  EXPECT_THAT(out.str(), HasSubstr("unknown"));
  EXPECT_THAT(out.str(), HasSubstr("nothing else"));
  EXPECT_THAT(out.str(), HasSubstr("cuda:0 is usable"));
}

TEST(RunInspectTest, MachineNeedsNoFileAndNothingNeedsOne) {
  std::istringstream in;
  std::ostringstream out, err, nothing;
  InspectFlags flags;
  flags.machine = true;
  flags.output = OutputFormat::kJson;
  EXPECT_EQ(RunInspect(flags, Io{in, out, err}), kExitOk);
  EXPECT_NE(nlohmann::json::parse(out.str())["isa"], "");
  EXPECT_EQ(RunInspect(InspectFlags(), Io{in, nothing, err}), kExitUsage);
  EXPECT_EQ(nothing.str(), "");
}

}  // namespace
}  // namespace nibble
