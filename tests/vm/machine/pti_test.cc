// A kernel with page-table isolation, stopped where the vCPU's own tables lack most of it: in user mode, and
// at the first instruction of a system call, before the entry code switches to the kernel's tables. Where it
// runs must be found from such a vCPU alone, and the rest of it be read through init_top_pgt.
#include <array>
#include <chrono>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "host/kernel/kernel_location.h"
#include "host/kernel/symbol_sources.h"
#include "host/memory/kernel_memory.h"
#include "tests/vm/machine/machine_harness.h"

namespace ktstr::test {
namespace {

using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

// Of CR3 under page-table isolation (arch/x86/entry/calling.h): the user's half of the pair of top tables.
constexpr std::uint64_t kUserHalf = 1 << 12;

struct Opened {
  KernelImage kernel;
  KernelSymbols symbols;
};

class PtiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!opened()) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 does not name a kernel folder";
  }
  static std::optional<Opened>& opened() {
    static std::optional<Opened> all = [] {
      auto kernel = test_kernel();
      if (!kernel) return std::optional<Opened>();
      auto symbols = find_symbols(*kernel);
      EXPECT_TRUE(symbols) << symbols.error().to_string();
      return symbols ? std::optional(Opened{std::move(*kernel), std::move(*symbols)}) : std::nullopt;
    }();
    return all;
  }
  static const SymbolTable& symbols() { return opened()->symbols.table; }
  static std::uint64_t address(const char* name) { return symbols().find(name).value_or(0); }
  static BootSpec spec(const std::string& what, std::uint32_t cpus) {
    BootSpec boot = test_boot_spec(opened()->kernel, what + " pti=on");
    boot.topology.cores_per_llc = cpus;
    return boot;
  }

  // Finds the kernel by nothing but this vCPU, and reads what the vCPU itself could not.
  static void check_location(Machine& machine, const VcpuRegisters& registers) {
    std::vector<MemoryRegion> regions;
    for (const RamRegion& region : machine.ram()) regions.push_back({Gpa(region.gpa), region.host});
    const auto memory = GuestMemory::create(std::move(regions));
    ASSERT_TRUE(memory);
    const VcpuWitness witness{.cr3 = registers.cr3,
                              .cr4 = registers.cr4,
                              .idt_base = registers.idt_base,
                              .idt_limit = registers.idt_limit,
                              .lstar = {}};
    const auto location = find_kernel({.memory = *memory,
                                       .symbols = symbols(),
                                       .vcpus = std::span(&witness, 1),
                                       .vmcoreinfo = nullptr,
                                       .text = std::nullopt,
                                       .expected = {}});
    ASSERT_TRUE(location) << location.error().to_string();
    EXPECT_EQ(location->slide, 0U) << location->evidence;
    const auto layout = make_layout(*location, symbols(), memory->end());
    ASSERT_TRUE(layout) << layout.error().to_string();
    ReadBudget budget(1 << 20, 10'000);
    KernelMemory kernel(*memory, *layout);
    const auto banner = kernel.read_c_string(Kva(address("linux_banner")), 256, budget);
    ASSERT_TRUE(banner) << banner.error().to_string();
    EXPECT_TRUE(banner->text.starts_with("Linux version " + opened()->kernel.release())) << banner->text;
    const auto base = kernel.read<Kva>(Kva(address("page_offset_base")), budget);
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, location->page_offset_base);
    // The IDT lies in the CPU entry area: no shift leads there, only tables.
    const auto gate = kernel.read<std::array<std::uint16_t, 8>>(Kva(registers.idt_base), budget);
    ASSERT_TRUE(gate) << gate.error().to_string();
    const std::uint64_t handler = (*gate)[0] | std::uint64_t{(*gate)[3]} << 16 |
                                  std::uint64_t{(*gate)[4]} << 32 | std::uint64_t{(*gate)[5]} << 48;
    EXPECT_EQ(handler, address("asm_exc_divide_error"));
  }
};

TEST_F(PtiTest, StoppedAtTheFirstInstructionOfASystemCall) {
  MachineUnderTest machine(spec("callforever", 2));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("CALL 3\r\n"));
  const std::uint64_t entry = address("entry_SYSCALL_64");
  ASSERT_NE(entry, 0U);
  ASSERT_TRUE(machine->set_traps({entry}));
  for (std::size_t hits = 1; hits <= 20; ++hits) {
    ASSERT_TRUE(machine.run_until([&] { return machine.events.size() >= hits; })) << machine.serial;
    const MachineEvent& event = machine.events.back();
    ASSERT_EQ(event.kind, MachineEvent::Kind::kTrapped) << event.detail;
    const auto registers = machine->registers(event.cpu);
    ASSERT_TRUE(registers) << registers.error().to_string();
    EXPECT_EQ(registers->rip, entry);
    EXPECT_EQ(registers->cs & 3, 0);                   // the processor is in kernel mode by now
    EXPECT_EQ(registers->cr3 & kUserHalf, kUserHalf);  // its tables are the user's still
    check_location(*machine, *registers);
    ASSERT_FALSE(HasFailure());
    ASSERT_TRUE(machine->resume());
  }
}

TEST_F(PtiTest, StoppedInUserMode) {
  MachineUnderTest machine(spec("spin", 1));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("SPIN\r\n"));
  // A timer interrupt may be under way now and then.
  const auto deadline = Clock::now() + kBootLimit;
  for (int in_user_mode = 0; in_user_mode < 5;) {
    ASSERT_LT(Clock::now(), deadline);
    ASSERT_TRUE(machine->pause(seconds(20)));
    const auto registers = machine->registers(0);
    ASSERT_TRUE(registers) << registers.error().to_string();
    if ((registers->cs & 3) == 3) {
      ++in_user_mode;
      EXPECT_EQ(registers->cr3 & kUserHalf, kUserHalf);
      check_location(*machine, *registers);
      ASSERT_FALSE(HasFailure());
    }
    ASSERT_TRUE(machine->resume());
    machine.run_until([] { return true; });
  }
}

}  // namespace
}  // namespace ktstr::test
