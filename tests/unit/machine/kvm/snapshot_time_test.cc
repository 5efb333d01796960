// Timers and clocks of guests that are saved and go on in other machines.
#include <x86intrin.h>

#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm/saved_guest.h"

namespace ktstr::kvm::tiny {
namespace {

using SnapshotTimeTest = SavedGuestTest;

constexpr std::uint64_t kIdt = 0x115000;
constexpr std::uint64_t kIdtPointer = 0x116000;
constexpr std::uint64_t kInterrupts = kData + 64;
constexpr std::uint64_t kReady = kData + 72;
constexpr std::uint64_t kTablesReady = kData + 80;
constexpr std::uint8_t kVector = 0x41;
// Registers of the local APIC.
constexpr std::uint64_t kEoi = kLocalApicGpa + 0xb0, kSpurious = kLocalApicGpa + 0xf0,
                        kTimer = kLocalApicGpa + 0x320, kInitialCount = kLocalApicGpa + 0x380,
                        kDivide = kLocalApicGpa + 0x3e0;
constexpr std::uint32_t kDeadlineMode = 1U << 18;

enum class Timer { kOneShot, kDeadline };

// A program that, when its tables are there, sets its timer, and then waits for interrupts, which it counts;
// at once, or with interrupts off until it is told to. `nanoseconds`: KVM's timers count those; or cycles
// until the deadline.
MachineCode timer_program(Timer timer, std::uint32_t count, bool wait_first) {
  MachineCode code(kKernel);
  wait_for_flag(code, kTablesReady);
  code.mov_rbx(kIdtPointer).lidt_rbx().store32(kSpurious, 0x1ff).store32(kDivide, 0xb);
  code.store32(kTimer, timer == Timer::kOneShot ? kVector : kDeadlineMode | kVector);
  if (timer == Timer::kOneShot) {
    code.store32(kInitialCount, count);
  } else {
    // The TSC as KVM has it: one that is software only lets the guest read the host's.
    code.mov_ecx(0x10).raw({0x0f, 0x32});                  // rdmsr
    code.raw({0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0});  // shl $32, %rdx; or %rdx, %rax
    code.mov_rbx(count).raw({0x48, 0x01, 0xd8});           // add %rbx, %rax
    code.raw({0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, 0x20});  // mov %rax, %rdx; shr $32, %rdx
    code.mov_ecx(0x6e0).raw({0x0f, 0x30});                 // wrmsr
  }
  code.increment(kReady);
  if (wait_first) wait_for_flag(code);
  const std::uint64_t loop = code.here();
  code.sti().hlt().jmp(loop);
  code.until(kHandler).increment(kInterrupts).store32(kEoi, 0);
  return code.iretq();
}

void put_interrupt_table(TinyMachine& machine) {
  // A 64-bit interrupt gate (Intel SDM vol. 3A, 6.14.1), and lidt's operand: 16 bits of limit, 64 of address.
  machine.set_number(kIdt + 16 * kVector, (kHandler & 0xffff) | std::uint64_t{0x10} << 16 |
                                              std::uint64_t{0x8e00} << 32 | (kHandler >> 16 & 0xffff) << 48);
  machine.set_number(kIdtPointer, 0xfff | kIdt << 16);
  machine.set_number(kIdtPointer + 8, kIdt >> 48);
  machine.set_number(kTablesReady, 1);
}

class SnapshotTimer : public testing::TestWithParam<Timer> {};

// It is set, has not come, and comes in the clone.
TEST_P(SnapshotTimer, ATimerThatRunsGoesOn) {
  NEEDS_KVM();
  constexpr std::uint32_t kCount = 800'000'000;  // 0.8 s, or 0.2 s and more
  TinySnapshot snapshot;
  TinyMachine base(tiny_spec(timer_program(GetParam(), kCount, false)));
  ASSERT_TRUE(starts(base));
  put_interrupt_table(base);
  ASSERT_TRUE(base.wait_number(kReady, 1));
  ASSERT_TRUE(save(base, snapshot));
  if (base.number_at(kInterrupts) != 0) GTEST_SKIP() << "the host was too slow: it has come already";
  if (GetParam() == Timer::kDeadline) {
    EXPECT_GT(state_of(snapshot).vcpus(0).tsc_deadline(), state_of(snapshot).vcpus(0).tsc());
    EXPECT_LE(state_of(snapshot).vcpus(0).tsc_deadline(), state_of(snapshot).vcpus(0).tsc() + kCount);
  }
  TinyMachine clone(clone_spec(snapshot));
  ASSERT_TRUE(starts(clone));
  EXPECT_TRUE(clone.wait_number(kInterrupts, 1));
  EXPECT_EQ(clone.number_at(kInterrupts), 1U);
  ASSERT_TRUE(base->resume());
  EXPECT_TRUE(base.wait_number(kInterrupts, 1));
}

// It has come, the guest does not take interrupts, and takes it in the clone.
TEST_P(SnapshotTimer, AnInterruptThatWaitsIsTaken) {
  NEEDS_KVM();
  TinySnapshot snapshot;
  TinyMachine base(tiny_spec(timer_program(GetParam(), 1000, true)));
  ASSERT_TRUE(starts(base));
  put_interrupt_table(base);
  ASSERT_TRUE(base.wait_number(kReady, 1));
  ASSERT_TRUE(base.wait_number(kCounter, base.number_at(kCounter) + 1000));
  ASSERT_TRUE(save(base, snapshot));
  ASSERT_EQ(base.number_at(kInterrupts), 0U);
  TinyMachine clone(clone_spec(snapshot));
  ASSERT_TRUE(starts(clone));
  ASSERT_TRUE(clone.wait_number(kCounter, base.number_at(kCounter) + 1000));
  EXPECT_EQ(clone.number_at(kInterrupts), 0U);
  clone.set_number(kFlag, 1);
  EXPECT_TRUE(clone.wait_number(kInterrupts, 1));
}

INSTANTIATE_TEST_SUITE_P(Modes, SnapshotTimer, testing::Values(Timer::kOneShot, Timer::kDeadline),
                         [](const auto& mode) {
                           return mode.param == Timer::kOneShot ? "OneShot" : "Deadline";
                         });

// A KVM that is software only may have no TSC but the host's.
bool tsc_can_be_set() {
  constexpr std::uint32_t kMsrTsc = 0x10;
  constexpr std::uint64_t kTime = std::uint64_t{1} << 60;
  TinyGuest guest;
  return guest.vcpu(0).set_msr(kMsrTsc, kTime) && guest.vcpu(0).msr(kMsrTsc).value_or(0) >= kTime;
}

// The time in the cache, and that of starting, is charged to nobody: what a clone's clocks have gone on by
// when it is paused is at most what has gone by since its start was asked for.
TEST_F(SnapshotTimeTest, TheClocksGoOnWhereTheyStood) {
  MachineCode code(kKernel);
  wait_for_flag(code).power_off();
  TinyMachine base(tiny_spec(code, 2));
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 1));
  ASSERT_TRUE(save(base, snapshot_));
  const v1::KvmState saved = state_of(snapshot_);
  std::this_thread::sleep_for(300ms);  // this is what is tested
  const auto begin = std::chrono::steady_clock::now();
  const std::uint64_t tsc_begin = __rdtsc();
  TinyMachine clone(clone_spec(snapshot_, 2));
  ASSERT_TRUE(starts(clone));
  ASSERT_TRUE(clone.wait_number(kCounter, base.number_at(kCounter) + 1));
  TinySnapshot second;
  ASSERT_TRUE(save(clone, second));
  const std::chrono::nanoseconds elapsed = std::chrono::steady_clock::now() - begin;
  const std::uint64_t tsc_elapsed = __rdtsc() - tsc_begin;
  const v1::KvmState later = state_of(second);
  EXPECT_GT(later.kvmclock_ns(), saved.kvmclock_ns());
  EXPECT_LE(std::chrono::nanoseconds(later.kvmclock_ns() - saved.kvmclock_ns()), elapsed + 1ms);
  const bool with_tsc = tsc_can_be_set();
  for (int cpu = 0; with_tsc && cpu < 2; ++cpu) {
    EXPECT_GT(later.vcpus(cpu).tsc(), saved.vcpus(cpu).tsc()) << cpu;
    // A pause and its end are some calls apart.
    EXPECT_LE(later.vcpus(cpu).tsc() - saved.vcpus(cpu).tsc(), tsc_elapsed + tsc_elapsed / 100) << cpu;
  }
}

}  // namespace
}  // namespace ktstr::kvm::tiny
