// A kvm machine with an APIC id that does not fit into 8 bits: KVM has only the local APICs, the I/O APIC is
// ours. Ids are sparse (5 threads take the room of 8, 5 cores too), but not so sparse that few CPUs would do:
// most of them stay off.
#include <gtest/gtest.h>

#include "tests/vm/machine/machine_harness.h"

namespace ktstr::test {
namespace {

using std::chrono::seconds;

TEST(SplitChip, BootsAndInterruptsACpuWithALongId) {
  if (test_accel() != AccelChoice::kKvm) GTEST_SKIP() << "of the kvm machine";
  const auto kernel = test_kernel();
  if (!kernel) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 does not name a kernel folder";
  BootSpec spec = test_boot_spec(*kernel, "lastcpu");
  spec.topology = {.numa_nodes = 1, .llcs = 5, .cores_per_llc = 5, .threads_per_core = 5};
  ASSERT_EQ(max_apic_id(spec.topology), 292U);
  spec.command_line += " maxcpus=2";
  MachineUnderTest machine(std::move(spec));
  const auto started = machine.start();
  ASSERT_TRUE(started) << started.error().to_string();
  machine.run_until(
      [&] { return machine.serial.find("LAST end") != std::string::npos || !machine.events.empty(); },
      seconds(240));
  EXPECT_NE(machine.serial.find("LAST 124 online 1"), std::string::npos) << machine.serial;
  EXPECT_NE(machine.serial.find("LAST moved 1 id 292"), std::string::npos);
  EXPECT_NE(machine.serial.find("LAST line 19"), std::string::npos);
  EXPECT_NE(machine.serial.find("LAST end"), std::string::npos);
  const auto end = machine.run_to_end();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, MachineEvent::Kind::kPoweredOff) << end->detail;
  // The columns are CPUs 0, 1 and 124; both devices have interrupted the last one.
  for (const std::string device : {"ttyS0", "virtio"}) {
    const std::size_t at = machine.serial.find(device, machine.serial.find("/proc/interrupts:"));
    ASSERT_NE(at, std::string::npos) << device;
    const std::size_t begin = machine.serial.rfind('\n', at) + 1;
    const std::string line = machine.serial.substr(begin, at - begin);
    unsigned irq = 0, first = 0, second = 0, last = 0;
    ASSERT_EQ(sscanf(line.c_str(), "/proc/interrupts: %u: %u %u %u", &irq, &first, &second, &last), 4)
        << machine.serial;
    EXPECT_GT(last, 0U) << line;
  }
}

}  // namespace
}  // namespace ktstr::test
