// Traps in guest programs: the OUT in place of a call site of the function tracer, breakpoints, watchpoints.
#include <array>

#include <gtest/gtest.h>

#include "host/machine/kvm/kvm_call.h"
#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint64_t kTracer = 0x102000;    // what a call site that is attached calls
constexpr std::uint64_t kCalls = kData;        // of each vCPU, before the call of the function
constexpr std::uint64_t kBodies = kData + 64;  // after the site
constexpr std::uint64_t kTraced = kData + 128;

// What stands at the function's beginning.
enum class SiteKind { kNop, kEndbrAndNop, kSealedAndNop, kCall };

// Every vCPU calls kFunction for ever.
void put_callers(TinyGuest& guest, SiteKind kind) {
  MachineCode code(kCode);
  const std::uint64_t loop = code.here();
  guest.put(code.increment_own(kCalls).call(kFunction).jmp(loop), kCode);
  MachineCode function(kFunction);
  if (kind == SiteKind::kEndbrAndNop) function.endbr64();
  if (kind == SiteKind::kSealedAndNop) function.raw({0x0f, 0x1f, 0x40, 0xd6});
  if (kind == SiteKind::kCall)
    function.call(kTracer);
  else
    function.nop5();
  guest.put(function.increment_own(kBodies).ret(), kFunction);
  guest.put(MachineCode(kTracer).increment_own(kTraced).ret(), kTracer);
}

class Traps : public testing::TestWithParam<SiteKind> {
 protected:
  // `rounds` hits, by any vCPU; each time the one that was announced goes past.
  static void hit_again_and_again(TinyGuest& guest, int rounds) {
    std::array<std::uint64_t, 4> passed = {};
    for (int i = 0; i < rounds; ++i) {
      const auto hit = guest.wait_hit();
      ASSERT_TRUE(hit) << "after " << i;
      ASSERT_TRUE(guest.hold().missing.empty());
      guest.forget_hits();
      ASSERT_EQ(hit->hit.address, kFunction);
      ASSERT_FALSE(hit->hit.watchpoint);
      ASSERT_EQ(guest.vcpu(hit->cpu).registers().value().rip, kFunction);
      // Before the function's first instruction: this call has had no effect yet, those before have.
      ASSERT_EQ(guest.number_at(kCalls + 8 * hit->cpu), passed[hit->cpu] + 1);
      ASSERT_EQ(guest.number_at(kBodies + 8 * hit->cpu), passed[hit->cpu]);
      const auto pass = guest.traps.pass(guest.vcpu(hit->cpu), guest.guest->ram_view);
      ASSERT_TRUE(pass) << pass.error().to_string();
      ++passed[hit->cpu];
      guest.go();
    }
  }

  // Without traps the functions are called as often as one likes.
  static void run_free(TinyGuest& guest, std::uint32_t vcpus) {
    ASSERT_TRUE(guest.wait_hit());
    ASSERT_TRUE(guest.hold().missing.empty());
    guest.forget_hits();
    ASSERT_TRUE(guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {}, {}));
    guest.go();
    for (std::uint32_t cpu = 0; cpu < vcpus; ++cpu)
      EXPECT_TRUE(guest.wait_number(kBodies + 8 * cpu, guest.number_at(kBodies + 8 * cpu) + 50));
    ASSERT_TRUE(guest.hold().missing.empty());
    EXPECT_FALSE(guest.ended());
  }

  static void set(TinyGuest& guest, TrapKind kind) {
    guest.traps.set_kind(kind);
    const auto set = guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {kFunction}, {});
    ASSERT_TRUE(set) << set.error().to_string();
  }
};

TEST_P(Traps, PortTrapOfOneVcpu) {
  NEEDS_KVM();
  TinyGuest guest;
  put_callers(guest, GetParam());
  set(guest, TrapKind::kPort);
  guest.start();
  guest.go();
  hit_again_and_again(guest, 20);
  run_free(guest, 1);
  // What the site calls was called for each of the function's calls.
  if (GetParam() == SiteKind::kCall) {
    EXPECT_LE(guest.number_at(kTraced) - guest.number_at(kBodies), 1U);
  }
}

TEST_P(Traps, PortTrapHitByTheSecondVcpuWhileTheFirstFreezes) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 2});
  put_callers(guest, GetParam());
  set(guest, TrapKind::kPort);
  guest.start();
  guest.go();
  hit_again_and_again(guest, 60);
  run_free(guest, 2);
}

TEST_P(Traps, Breakpoint) {
  NEEDS_KVM();
  if (const auto work = breakpoints_work(); !work || !*work) {
    KTSTR_SKIP_OR_FAIL() << "hardware breakpoints do not arrive on this host";
  }
  TinyGuest guest({.vcpus = 2});
  put_callers(guest, GetParam());
  set(guest, TrapKind::kBreakpoint);
  guest.start();
  guest.go();
  hit_again_and_again(guest, 40);
  run_free(guest, 2);
}

INSTANTIATE_TEST_SUITE_P(Sites, Traps,
                         testing::Values(SiteKind::kNop, SiteKind::kEndbrAndNop, SiteKind::kSealedAndNop,
                                         SiteKind::kCall),
                         [](const auto& site) {
                           switch (site.param) {
                             case SiteKind::kNop:
                               return "Nop";
                             case SiteKind::kEndbrAndNop:
                               return "Endbr";
                             case SiteKind::kSealedAndNop:
                               return "Sealed";
                             case SiteKind::kCall:
                               break;
                           }
                           return "Call";
                         });

TEST(PortTraps, OnlyWhereThereIsASite) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.put(MachineCode(kFunction).ud2().ud2().ud2().ud2().ud2(), kFunction);
  guest.traps.set_kind(TrapKind::kPort);
  const auto set = guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {kFunction}, {});
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), ErrorCode::kHost);
  EXPECT_NE(set.error().to_string().find("0x101000 is no call site"), std::string::npos)
      << set.error().to_string();
  const auto unmapped = guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {0xffffffff81000000}, {});
  ASSERT_FALSE(unmapped);
  EXPECT_NE(unmapped.error().to_string().find("no vCPU's page tables lead to 0xffffffff81000000"),
            std::string::npos)
      << unmapped.error().to_string();
}

TEST(PortTraps, WhenOneCannotBeSetTheOthersStay) {
  NEEDS_KVM();
  TinyGuest guest;
  put_callers(guest, SiteKind::kNop);
  guest.traps.set_kind(TrapKind::kPort);
  ASSERT_TRUE(guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {kFunction}, {}));
  ASSERT_FALSE(guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {kCode, kFunction}, {}));
  guest.start();
  guest.go();
  const auto hit = guest.wait_hit();
  ASSERT_TRUE(hit);
  EXPECT_EQ(hit->hit.address, kFunction);
  ASSERT_TRUE(guest.hold().missing.empty());
}

TEST(PortTraps, TheBytesComeBack) {
  NEEDS_KVM();
  TinyGuest guest;
  guest.put(MachineCode(kFunction).endbr64().nop5().ret(), kFunction);
  guest.set_number(kFunction + 16, 0);
  const std::uint64_t before = guest.number_at(kFunction);
  guest.traps.set_kind(TrapKind::kPort);
  ASSERT_TRUE(guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {kFunction}, {}));
  EXPECT_NE(guest.number_at(kFunction), before);
  EXPECT_EQ(guest.number_at(kFunction) & 0xffffffff, before & 0xffffffff);  // the endbr64
  ASSERT_TRUE(guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {}, {}));
  EXPECT_EQ(guest.number_at(kFunction), before);
}

// What they say depends on the host; that they come to an end does not.
TEST(Breakpoints, TheTrialsHaveAnAnswer) {
  NEEDS_KVM();
  const auto arrive = breakpoints_work();
  ASSERT_TRUE(arrive) << arrive.error().to_string();
  const auto kept = interrupts_keep_breakpoints();
  ASSERT_TRUE(kept) << kept.error().to_string();
  EXPECT_EQ(breakpoint_defect().empty(), *arrive && *kept);
}

TEST(Watchpoints, StopAfterTheWrite) {
  NEEDS_KVM();
  if (const auto work = breakpoints_work(); !work || !*work) {
    KTSTR_SKIP_OR_FAIL() << "hardware breakpoints do not arrive on this host";
  }
  TinyGuest guest;
  MachineCode code(kCode);
  const std::uint64_t loop = code.here();
  guest.put(code.increment(kData).increment(kData + 64).jmp(loop), kCode);
  ASSERT_TRUE(guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {}, {{.address = kData + 64}}));
  guest.start();
  guest.go();
  for (std::uint64_t i = 1; i <= 10; ++i) {
    const auto hit = guest.wait_hit();
    ASSERT_TRUE(hit);
    ASSERT_TRUE(guest.hold().missing.empty());
    EXPECT_TRUE(hit->hit.watchpoint);
    EXPECT_EQ(hit->hit.address, kData + 64);
    EXPECT_EQ(guest.number_at(kData), i);
    EXPECT_EQ(guest.number_at(kData + 64), i);
    guest.go();
  }
}

// The guest's own single step, while its breakpoint registers are ours.
TEST(Breakpoints, ADebugExceptionOfTheGuestsOwnGoesToTheGuest) {
  NEEDS_KVM();
  TinyGuest guest;
  Vcpu& vcpu = guest.vcpu(0);
  ASSERT_TRUE(vcpu.give_debug_exception(1U << 14));  // BS: a single step
  kvm_vcpu_events events = {};
  ASSERT_TRUE(KVM_CALL(vcpu.fd(), KVM_GET_VCPU_EVENTS, &events));
  EXPECT_EQ(events.exception.injected + events.exception.pending, 1);
  EXPECT_EQ(events.exception.nr, 1);
  kvm_debugregs registers = {};
  ASSERT_TRUE(KVM_CALL(vcpu.fd(), KVM_GET_DEBUGREGS, &registers));
  EXPECT_NE(registers.dr6 & (1U << 14), 0u);
}

TEST(Breakpoints, WhatIsOfOurOwnRegistersDoesNotGoToTheGuest) {
  NEEDS_KVM();
  TinyGuest guest;
  ASSERT_TRUE(guest.vcpu(0).give_debug_exception(1));
  kvm_vcpu_events events = {};
  ASSERT_TRUE(KVM_CALL(guest.vcpu(0).fd(), KVM_GET_VCPU_EVENTS, &events));
  EXPECT_EQ(events.exception.injected, 0);
}

TEST(Watchpoints, NoMoreThanThree) {
  NEEDS_KVM();
  TinyGuest guest;
  const std::vector<Watchpoint> four = {{kData, 8}, {kData + 8, 8}, {kData + 16, 8}, {kData + 24, 8}};
  const auto set = guest.traps.set(guest.guest->vcpus, guest.guest->ram_view, {}, four);
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), ErrorCode::kHost);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
