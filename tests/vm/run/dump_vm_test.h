// What tests of dumps share: the fault-injection scheduler in a guest, and what must hold of every dump.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "host/report/dump/dump_compare.h"
#include "host/report/dump/dump_file.h"
#include "tests/vm/run/vm_run.h"

namespace ktstr::vmtest {

using ktstr::v1::Dsq;
using ktstr::v1::Dump;
using ktstr::v1::Task;

inline constexpr int kStallKind = 1026, kBpfErrorKind = 1025, kErrorKind = 1024;

class DumpVmTest : public VmTest {
 protected:
  static std::string fault_scheduler() { return environment("KTSTR_SCHED"); }
  // The vmlinux of a packaged kernel, unpacked to `path`; false: it has no image, or it cannot be unpacked.
  static bool unpack_kernel(const std::string& folder, const std::string& path) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.path().filename().string().starts_with("vmlinuz"))
        return std::system((environment("KTSTR_EXTRACT_VMLINUX") + " " + entry.path().string() + " " + path)
                               .c_str()) == 0;
    }
    return false;
  }
  static bool full() { return !environment("KTSTR_TEST_FULL").empty(); }

  // Runs the fault-injection scheduler with an instruction clock.
  VmRun fault(const std::string& series, const std::string& arguments,
              std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"--scheduler", fault_scheduler(), "--scheduler-args",
                                    arguments,     "--duration",      "8s"};
    all.insert(all.end(), more.begin(), more.end());
    return run_seeded(series, all);
  }

  static Dump dump_of(const VmRun& run, int number = 1) {
    const auto dump = read_dump((run.folder / ("dump-" + std::to_string(number) + ".pb")).string());
    EXPECT_TRUE(dump) << (dump ? "" : dump.error().to_string()) << "\n" << run.describe();
    return dump ? *dump : Dump();
  }
  static int count_of_dumps(const VmRun& run) {
    return run.result.is_object() && run.result.contains("dumps")
               ? static_cast<int>(run.result["dumps"].size())
               : 0;
  }
  static std::size_t count(const Dump& dump, Dsq::Kind kind) {
    return static_cast<std::size_t>(std::count_if(dump.dsqs().begin(), dump.dsqs().end(),
                                                  [&](const Dsq& dsq) { return dsq.kind() == kind; }));
  }
  static const Task* find_task(const Dump& dump, const std::string& comm) {
    const auto found = std::find_if(dump.tasks().begin(), dump.tasks().end(),
                                    [&](const Task& task) { return task.comm() == comm; });
    return found == dump.tasks().end() ? nullptr : &*found;
  }
  // By its pid: a worker that has not begun yet has its name, too.
  static const Task* find_init(const Dump& dump) {
    const auto found = std::ranges::find_if(dump.tasks(), [](const Task& task) { return task.pid() == 1; });
    return found == dump.tasks().end() ? nullptr : &*found;
  }
  static bool has_finding(const Dump& dump, const std::string& kind) {
    return std::any_of(dump.findings().begin(), dump.findings().end(),
                       [&](const auto& finding) { return finding.kind() == kind; });
  }

  // What every dump of a failed scheduler has, whatever the kernel.
  static void expect_complete(const Dump& dump, int kind) {
    EXPECT_EQ(dump.header().trap_exit_kind(), static_cast<std::uint64_t>(kind));
    EXPECT_EQ(dump.header().faults(), 0U)
        << (dump.faults().empty() ? "" : dump.faults(0).path() + dump.faults(0).text());
    EXPECT_EQ(dump.header().incomplete(), "");
    ASSERT_GE(dump.scheds_size(), 1);
    EXPECT_EQ(dump.scheds(0).exit_info().kind(), kind);
    EXPECT_FALSE(dump.scheds(0).exit_info().msg().empty());
    EXPECT_GT(dump.scheds(0).exit_info().bt_size(), 0);
    EXPECT_NE(dump.scheds(0).exit_info().dump().find("CPU states"), std::string::npos);
    EXPECT_FALSE(dump.scheds(0).callbacks().empty());
    const std::size_t cpus = dump.header().nr_cpu_ids();
    EXPECT_EQ(dump.cpus_size(), static_cast<int>(cpus));
    EXPECT_EQ(count(dump, Dsq::LOCAL), cpus);
    EXPECT_EQ(count(dump, Dsq::GLOBAL), 1U);
    const bool has_bypass = std::any_of(dump.dsqs().begin(), dump.dsqs().end(),
                                        [](const Dsq& dsq) { return dsq.kind() == Dsq::BYPASS; });
    EXPECT_EQ(count(dump, Dsq::BYPASS), has_bypass ? cpus : 0);
    const Task* init = find_init(dump);
    ASSERT_NE(init, nullptr);
    EXPECT_EQ(init->comm(), "init");
    const Task* kthreadd = find_task(dump, "kthreadd");
    ASSERT_NE(kthreadd, nullptr);
    EXPECT_GT(kthreadd->stack_size(), 0);
    for (const auto& cpu : dump.cpus()) EXPECT_TRUE(cpu.vcpu().user_mode() || cpu.stack_size() > 0);
  }

  // Between our freeze and the kernel's own look: a stop can move a deterministic guest's clock by 4 ms
  // (docs/determinism.md), within which there is a tick, and a task may go to sleep or to another CPU.
  static constexpr CompareTolerance kNext = {.tasks_left = 2, .time_ns = 8'000'000};

  static void expect_agrees_with_kernel(const Dump& dump) {
    const auto kernel = parse_kernel_dump(dump.scheds(0).exit_info().dump());
    ASSERT_TRUE(kernel) << kernel.error().to_string();
    EXPECT_FALSE(kernel->cpus.empty());
    for (const DumpDifference& difference : compare_with_kernel(dump, *kernel, kNext))
      ADD_FAILURE() << difference.to_string();
  }
};

}  // namespace ktstr::vmtest
