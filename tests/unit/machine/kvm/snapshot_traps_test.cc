// Traps and guests that are saved and go on in other machines.
#include <gtest/gtest.h>

#include "tests/unit/machine/kvm/saved_guest.h"

namespace ktstr::kvm::tiny {
namespace {

// Calls a function that begins as a function of the kernel's does.
MachineCode calling_program() {
  MachineCode code(kKernel);
  const std::uint64_t loop = code.here();
  code.call(kHandler).jmp(loop).until(kHandler);
  return code.nop5().increment(kCounter).ret();
}

class SnapshotTraps : public testing::TestWithParam<TrapKind> {};

TEST_P(SnapshotTraps, TrapsThatAreSetBeforeTheStartAreInForce) {
  NEEDS_KVM();
  if (GetParam() == TrapKind::kBreakpoint && !breakpoint_defect().empty())
    GTEST_SKIP() << breakpoint_defect();
  TinySnapshot snapshot;
  TinyMachine base(tiny_spec(calling_program()));
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 10));
  ASSERT_TRUE(save(base, snapshot));
  TinyMachine clone(clone_spec(snapshot), {.traps = GetParam()});
  ASSERT_TRUE(clone->set_traps({kHandler}));
  ASSERT_TRUE(starts(clone));
  for (int round = 0; round < 3; ++round) {
    clone.events.clear();
    ASSERT_TRUE(clone.run_to_event(MachineEvent::Kind::kTrapped)) << round;
    EXPECT_EQ(clone.events.back().address, kHandler);
    EXPECT_EQ(clone->registers(0).value().rip, kHandler);
    const std::uint64_t counted = clone.number_at(kCounter);
    EXPECT_GE(counted, base.number_at(kCounter));
    ASSERT_TRUE(clone->resume());
  }
}

// A snapshot has none, whatever the base had.
TEST_P(SnapshotTraps, ASnapshotHasNoTraps) {
  NEEDS_KVM();
  if (GetParam() == TrapKind::kBreakpoint && !breakpoint_defect().empty())
    GTEST_SKIP() << breakpoint_defect();
  TinySnapshot snapshot;
  TinyMachine base(tiny_spec(calling_program()), {.traps = GetParam()});
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 10));
  ASSERT_TRUE(base->set_traps({kHandler}));
  ASSERT_TRUE(base.run_to_event(MachineEvent::Kind::kTrapped));
  const auto saved = base->save(snapshot.files());
  ASSERT_TRUE(saved) << saved.error().to_string();
  TinyMachine clone(clone_spec(snapshot));
  ASSERT_TRUE(starts(clone));
  EXPECT_TRUE(clone.wait_number(kCounter, base.number_at(kCounter) + 100));
  EXPECT_TRUE(clone.events.empty());
  // The base still has it.
  base.events.clear();
  ASSERT_TRUE(base->resume());
  EXPECT_TRUE(base.run_to_event(MachineEvent::Kind::kTrapped));
}

INSTANTIATE_TEST_SUITE_P(Kinds, SnapshotTraps, testing::Values(TrapKind::kPort, TrapKind::kBreakpoint),
                         [](const auto& kind) {
                           return kind.param == TrapKind::kPort ? "Port" : "Breakpoint";
                         });

}  // namespace
}  // namespace ktstr::kvm::tiny
