// Holding a guest's time, with guests that write their TSC into memory without a pause.
#include "host/machine/kvm/guest_clock.h"

#include <x86intrin.h>

#include <thread>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {
namespace {

using Held = GuestClock::Held;

TEST(TscGap, AllThatWentByWhenKvmclockStands) {
  EXPECT_EQ(tsc_gap({1000, 5000}, {1000, 9000}, 2'000'000), 4000U);
}

TEST(TscGap, WithoutWhatKvmclockHasGoneOn) {
  EXPECT_EQ(tsc_gap({1000, 5000}, {1500, 9000}, 2'000'000), 3000U);
  // 3 ns at 2.3 GHz are 6.9 cycles: taking the seventh would set kvmclock back.
  EXPECT_EQ(tsc_gap({1000, 5000}, {1003, 9000}, 2'300'000), 3994U);
}

TEST(TscGap, OddMoments) {
  EXPECT_EQ(tsc_gap({1000, 5000}, {900, 9000}, 2'000'000), 4000U);
  EXPECT_EQ(tsc_gap({1000, 5000}, {2000, 9000}, 0), 4000U);
  // A host's TSC that wraps, and a clock that has gone on for a year.
  EXPECT_EQ(tsc_gap({0, ~std::uint64_t{0} - 9}, {0, 90}, 1), 100U);
  constexpr std::uint64_t kYear = 31'536'000'000'000'000;
  EXPECT_EQ(tsc_gap({0, 0}, {kYear, 5 * kYear}, 5'000'000), 0U);
}

class GuestClockTest : public testing::TestWithParam<Held> {};

// Each vCPU writes its TSC to kData + 8 * its number, again and again.
void put_tsc_writer(TinyGuest& guest) {
  MachineCode code(kCode);
  code.mov_rbx(kData).lea_rbx_rdi();
  const std::uint64_t loop = code.here();
  code.raw({0x0f, 0x31});              // rdtsc
  code.raw({0x48, 0xc1, 0xe2, 0x20});  // shl $32, %rdx
  code.raw({0x48, 0x09, 0xd0});        // or %rdx, %rax
  guest.put(code.store_rbx_rax().jmp(loop), kCode);
}

// Two writes later the TSC in memory was read after this call.
bool wait_fresh(TinyGuest& guest, std::uint64_t at) {
  for (int write = 0; write < 2; ++write)
    if (!guest.wait_number(at, guest.number_at(at) + 1)) return false;
  return true;
}

struct Clock {
  std::uint64_t ns = 0;
  bool master = false;
};
Clock kvmclock(TinyGuest& guest) {
  const auto now = guest.guest->vm.clock();
  EXPECT_TRUE(now) << now.error().to_string();
  return now ? Clock{now->clock, (now->flags & KVM_CLOCK_TSC_STABLE) != 0} : Clock{};
}

constexpr std::uint32_t kMsrTsc = 0x10;

// The vCPU's TSC, as KVM has it.
std::uint64_t tsc(TinyGuest& guest, std::uint32_t cpu) {
  const auto value = guest.vcpu(cpu).msr(kMsrTsc);
  EXPECT_TRUE(value) << value.error().to_string();
  return value.value_or(0);
}

// A KVM that is software only may have no TSC but the host's.
bool tsc_can_be_set(TinyGuest& guest) {
  constexpr std::uint64_t kTime = std::uint64_t{1} << 60;
  for (Vcpu& vcpu : guest.guest->vcpus)
    if (!vcpu.set_msr(kMsrTsc, kTime)) return false;
  return tsc(guest, 0) >= kTime;
}

// What is held cannot be seen by when the guest runs again, because a loaded host takes its time with it; but
// however long that takes, the guest's time and the pauses together are not more than the host's.
TEST_P(GuestClockTest, TimeStandsWhileItIsHeld) {
  NEEDS_KVM();
  constexpr int kRounds = 30;
  constexpr auto kPause = 10ms;
  TinyGuest guest({.vcpus = 2});
  const bool with_tsc = tsc_can_be_set(guest);
  put_tsc_writer(guest);
  guest.start();
  GuestClock clock(GetParam() == Held::kClockAndTsc);
  guest.go();
  const std::uint64_t begin = __rdtsc();
  for (const std::uint64_t at : {kData, kData + 8}) ASSERT_TRUE(wait_fresh(guest, at));
  ASSERT_TRUE(guest.hold().missing.empty());
  const std::uint64_t first_written[] = {guest.number_at(kData), guest.number_at(kData + 8)};
  const std::uint64_t first_tsc[] = {tsc(guest, 0), tsc(guest, 1)};
  const Clock first = kvmclock(guest);
  std::uint64_t paused = 0;
  const auto wall_begin = std::chrono::steady_clock::now();
  std::chrono::nanoseconds wall_paused{};
  for (int round = 0; round < kRounds; ++round) {
    const Held held = clock.hold(guest.guest->vm, guest.guest->vcpus);
    if (held != GetParam()) GTEST_SKIP() << "this KVM holds otherwise: " << static_cast<int>(held);
    const std::uint64_t written[] = {guest.number_at(kData), guest.number_at(kData + 8)};
    const auto wall = std::chrono::steady_clock::now();
    const std::uint64_t parked = __rdtsc();
    std::this_thread::sleep_for(kPause);  // this is what is tested
    paused += __rdtsc() - parked;
    wall_paused += std::chrono::steady_clock::now() - wall;
    const auto released = clock.release(guest.guest->vm, guest.guest->vcpus);
    ASSERT_TRUE(released) << released.error().to_string();
    guest.go();
    // Forward only.
    for (std::size_t cpu = 0; cpu < 2; ++cpu)
      ASSERT_TRUE(guest.wait_number(kData + 8 * cpu, written[cpu] + 1)) << "round " << round;
    ASSERT_TRUE(guest.hold().missing.empty());
  }
  const std::uint64_t last_tsc[] = {tsc(guest, 0), tsc(guest, 1)};
  const std::uint64_t elapsed = __rdtsc() - begin;
  for (std::uint32_t cpu = 0; with_tsc && cpu < 2; ++cpu) {
    EXPECT_LE(last_tsc[cpu] - first_tsc[cpu] + paused, elapsed) << "vCPU " << cpu;
    EXPECT_LE(guest.number_at(kData + 8 * cpu) - first_written[cpu] + paused, elapsed) << "vCPU " << cpu;
  }
  const Clock last = kvmclock(guest);
  const auto wall_elapsed = std::chrono::steady_clock::now() - wall_begin;
  EXPECT_GT(last.ns, first.ns);
  EXPECT_LE(std::chrono::nanoseconds(last.ns - first.ns) + wall_paused, wall_elapsed + 1ms);
  EXPECT_TRUE(last.master) << "the vCPUs' TSCs differ";
}

INSTANTIATE_TEST_SUITE_P(Ways, GuestClockTest, testing::Values(Held::kClockAndTsc, Held::kClockAndTscByValue),
                         [](const auto& way) {
                           return way.param == Held::kClockAndTsc ? "ByOffset" : "ByValue";
                         });

// What another VM had goes on in a new one, by either way of setting a TSC; the time between is nobody's.
TEST(GuestClock, TimesGoOnInAnotherVm) {
  NEEDS_KVM();
  GuestTimes times;
  {
    TinyGuest base({.vcpus = 2});
    GuestClock clock;
    ASSERT_NE(clock.hold(base.guest->vm, base.guest->vcpus), Held::kNothing);
    const auto got = clock.times(base.guest->vcpus);
    ASSERT_TRUE(got) << got.error().to_string();
    times = *got;
  }
  ASSERT_EQ(times.vcpus.size(), 2U);
  std::this_thread::sleep_for(100ms);  // this is what is tested
  for (const bool by_offset : {true, false}) {
    TinyGuest other({.vcpus = 2});
    const bool with_tsc = tsc_can_be_set(other);
    GuestClock clock(by_offset);
    clock.hold_times(times);
    const auto again = clock.times(other.guest->vcpus);
    ASSERT_TRUE(again);
    EXPECT_EQ(*again, times);
    const auto wall = std::chrono::steady_clock::now();
    const std::uint64_t cycles = __rdtsc();
    const auto released = clock.release(other.guest->vm, other.guest->vcpus);
    ASSERT_TRUE(released) << released.error().to_string();
    const Clock now = kvmclock(other);
    const std::uint64_t now_tsc[] = {tsc(other, 0), tsc(other, 1)};
    const std::uint64_t elapsed = __rdtsc() - cycles;
    EXPECT_GE(now.ns, times.kvmclock);
    EXPECT_LE(std::chrono::nanoseconds(now.ns - times.kvmclock),
              std::chrono::steady_clock::now() - wall + 1ms);
    for (std::size_t cpu = 0; with_tsc && cpu < 2; ++cpu) {
      EXPECT_GE(now_tsc[cpu], times.vcpus[cpu].tsc) << cpu;
      EXPECT_LE(now_tsc[cpu] - times.vcpus[cpu].tsc, elapsed) << cpu;
    }
  }
}

TEST(GuestClock, ReleaseOfWhatIsNotHeldDoesNothing) {
  NEEDS_KVM();
  TinyGuest guest;
  GuestClock clock;
  const Clock before = kvmclock(guest);
  EXPECT_TRUE(clock.release(guest.guest->vm, guest.guest->vcpus));
  EXPECT_GE(kvmclock(guest).ns, before.ns);
  clock.hold(guest.guest->vm, guest.guest->vcpus);
  EXPECT_TRUE(clock.release(guest.guest->vm, guest.guest->vcpus));
  const Clock after = kvmclock(guest);
  std::this_thread::sleep_for(2ms);
  EXPECT_TRUE(clock.release(guest.guest->vm, guest.guest->vcpus));
  EXPECT_GE(kvmclock(guest).ns, after.ns + 2'000'000);
}

}  // namespace
}  // namespace ktstr::kvm::tiny
