#include "host/snapshot/snapshot_key.h"

#include <functional>
#include <set>

#include <gmock/gmock.h>

#include "tests/unit/snapshot/sample_snapshot.h"

namespace ktstr::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct Change {
  const char* name;  // as differences() has it
  std::function<void(SnapshotInputs&)> apply;
};

// One for every input there is.
std::vector<Change> changes() {
  return {
      {"point", [](auto& in) { in.point = SnapshotPoint::kHello; }},
      {"kernel", [](auto& in) { in.kernel += "0"; }},
      {"initramfs", [](auto& in) { in.initramfs += "0"; }},
      {"command line", [](auto& in) { in.command_line += " quiet"; }},
      {"topology", [](auto& in) { in.topology = "1n2l2c1t"; }},
      {"memory", [](auto& in) { ++in.memory_bytes; }},
      {"CPU model", [](auto& in) { in.cpu_model = "EPYC-v2"; }},
      {"CPU flags", [](auto& in) { in.cpu_flags = "+la57"; }},
      {"machine", [](auto& in) { in.machine = "kvm"; }},
      {"emulator path", [](auto& in) { in.emulator_path = "/opt/qemu"; }},
      {"emulator version", [](auto& in) { in.emulator_version = "10.0.3"; }},
      {"emulator", [](auto& in) { in.emulator_hash += "0"; }},
      {"state version", [](auto& in) { ++in.state_version; }},
      {"host CPU", [](auto& in) { in.host["CPU"] = "another"; }},
      {"host kernel", [](auto& in) { in.host["kernel"] = "6.1"; }},
      {"module virtio.ko", [](auto& in) { in.modules[0].hash += "0"; }},
      {"module more.ko",
       [](auto& in) {
         in.modules.push_back({"more.ko", "1"});
       }},
      {"scheduler file /bin/scx_lavd", [](auto& in) { in.scheduler_files[0].hash += "0"; }},
      {"scheduler file /lib/libelf.so.1", [](auto& in) { in.scheduler_files.pop_back(); }},
      {"scheduler argument 1", [](auto& in) { in.scheduler_arguments[0] = "--other"; }},
      {"scheduler argument 3", [](auto& in) { in.scheduler_arguments.emplace_back(); }},
  };
}

TEST(SnapshotKeyTest, IsTheSameToday) {
  // A change of this number throws away everybody's snapshots: it has to be on purpose.
  EXPECT_EQ(snapshot_key(sample_inputs()), "dbb892593ce19a648a2741917db2c0a2");
}

TEST(SnapshotKeyTest, ChangesWithEveryInput) {
  std::set<std::string> keys{snapshot_key(sample_inputs())};
  for (const Change& change : changes()) {
    SnapshotInputs inputs = sample_inputs();
    change.apply(inputs);
    EXPECT_TRUE(keys.insert(snapshot_key(inputs)).second) << change.name;
  }
}

TEST(SnapshotKeyTest, DifferencesNameWhatChanged) {
  const SnapshotInputs base = sample_inputs();
  EXPECT_THAT(differences(base, base), IsEmpty());
  for (const Change& change : changes()) {
    SnapshotInputs inputs = sample_inputs();
    change.apply(inputs);
    if (std::string_view(change.name) == "point") continue;
    EXPECT_THAT(differences(inputs, base), ElementsAre(change.name));
    EXPECT_THAT(differences(base, inputs), ElementsAre(change.name));
  }
}

TEST(SnapshotKeyTest, OrderOfFilesIsNoDifference) {
  SnapshotInputs inputs = sample_inputs();
  std::swap(inputs.modules[0], inputs.modules[1]);
  std::swap(inputs.scheduler_files[0], inputs.scheduler_files[1]);
  EXPECT_EQ(snapshot_key(inputs), snapshot_key(sample_inputs()));
}

TEST(SnapshotKeyTest, OrderOfArgumentsIsOne) {
  SnapshotInputs inputs = sample_inputs();
  std::swap(inputs.scheduler_arguments[0], inputs.scheduler_arguments[1]);
  EXPECT_NE(snapshot_key(inputs), snapshot_key(sample_inputs()));
}

TEST(SnapshotKeyTest, SchedulerDoesNotMatterBeforeItIsStarted) {
  SnapshotInputs one = sample_inputs();
  one.point = SnapshotPoint::kHello;
  SnapshotInputs other = one;
  other.scheduler_files.clear();
  other.scheduler_arguments = {"--anything"};
  EXPECT_EQ(snapshot_key(one), snapshot_key(other));
}

TEST(SnapshotKeyTest, TextsDoNotRunIntoEachOther) {
  const std::vector<NamedInput> one{{"a", "bc"}, {"d", ""}};
  const std::vector<NamedInput> moved{{"ab", "c"}, {"d", ""}};
  const std::vector<NamedInput> joined{{"a", "bcd"}};
  const std::vector<NamedInput> swapped{{"a", ""}, {"d", "bc"}};
  const std::set<std::string> keys{snapshot_key(one), snapshot_key(moved), snapshot_key(joined),
                                   snapshot_key(swapped)};
  EXPECT_EQ(keys.size(), 4U);
}

TEST(SnapshotKeyTest, FilesOfOneNameCountTwice) {
  SnapshotInputs once = sample_inputs();
  once.modules = {{"x.ko", "1"}};
  SnapshotInputs twice = once;
  twice.modules.push_back({"x.ko", "1"});
  EXPECT_NE(snapshot_key(once), snapshot_key(twice));
  EXPECT_THAT(differences(once, twice), ElementsAre("module x.ko"));
}

TEST(SnapshotKeyTest, DifferencesStandInTheOrderOfTheInputs) {
  SnapshotInputs inputs = sample_inputs();
  inputs.modules[0].hash = "1";
  inputs.cpu_flags = "+la57";
  inputs.kernel = "1";
  EXPECT_THAT(differences(inputs, sample_inputs()), ElementsAre("kernel", "CPU flags", "module virtio.ko"));
}

TEST(SnapshotKeyTest, ListOfNamesIsBoundedAndHarmless) {
  const std::vector<std::string> names{"kernel", "module \x1b[31m", "a", "b"};
  EXPECT_EQ(list_names(names, 2), "kernel, 'module \\x1b[31m' and 2 more");
  EXPECT_EQ(list_names(names, 4), "kernel, 'module \\x1b[31m', a, b");
  EXPECT_EQ(list_names({}, 4), "");
}

}  // namespace
}  // namespace ktstr::test
