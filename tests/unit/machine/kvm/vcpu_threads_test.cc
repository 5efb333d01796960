// Holding and letting go vCPUs that spin, halt, wait to be started, or do not come.
#include <future>

#include <gtest/gtest.h>

#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr std::uint16_t kCallPort = 0x1234;  // nobody's

void put_spinner(TinyGuest& guest) {
  MachineCode code(kCode);
  code.mov_rbx(kData).lea_rbx_rdi();
  const std::uint64_t loop = code.here();
  guest.put(code.inc_at_rbx().jmp(loop), kCode);
}

class Rendezvous : public testing::TestWithParam<std::uint32_t> {};

TEST_P(Rendezvous, HundredsOfTimes) {
  NEEDS_KVM();
  constexpr int kRounds = 200;
  TinyGuest guest({.vcpus = GetParam()});
  put_spinner(guest);
  guest.start();
  for (int round = 0; round < kRounds; ++round) {
    guest.go();
    const PauseReport report = guest.hold();
    ASSERT_TRUE(report.missing.empty()) << "round " << round;
    ASSERT_EQ(report.stopped_after.size(), GetParam());
    for (std::uint32_t cpu = 0; cpu < GetParam(); ++cpu) {
      ASSERT_TRUE(report.stopped_after[cpu]);
      ASSERT_LE(*report.stopped_after[cpu], report.rendezvous);
      ASSERT_TRUE(guest.threads->parked(cpu));
      const auto regs = guest.vcpu(cpu).registers();
      ASSERT_TRUE(regs);
      ASSERT_GE(regs->rip, kCode);
      ASSERT_LT(regs->rip, kCode + 64);
      ASSERT_EQ(regs->rdi, cpu);
      ASSERT_EQ(regs->cr3, 0x9000U);
    }
  }
  // Nobody moves while held, everybody does afterwards.
  std::vector<std::uint64_t> counts;
  for (std::uint32_t cpu = 0; cpu < GetParam(); ++cpu) counts.push_back(guest.number_at(kData + 8 * cpu));
  for (std::uint32_t cpu = 0; cpu < GetParam(); ++cpu)
    EXPECT_EQ(guest.number_at(kData + 8 * cpu), counts[cpu]);
  guest.go();
  for (std::uint32_t cpu = 0; cpu < GetParam(); ++cpu)
    EXPECT_TRUE(guest.wait_number(kData + 8 * cpu, counts[cpu] + 1)) << cpu;
}

INSTANTIATE_TEST_SUITE_P(Vcpus, Rendezvous, testing::Values(1, 2, 4));

// hold() and go() with nobody waiting in between, and from two threads at once, must not leave a vCPU that
// is to run and does not.
TEST(VcpuThreads, HoldAndGoWithoutWaiting) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 2});
  put_spinner(guest);
  guest.start();
  for (int round = 0; round < 30; ++round) {
    std::thread other([&guest] {
      for (int i = 0; i < 20; ++i) guest.threads->hold();
    });
    for (int i = 0; i < 20; ++i) {
      guest.threads->hold();
      guest.go();
    }
    other.join();
    guest.go();
    for (const std::uint64_t at : {kData, kData + 8})
      ASSERT_TRUE(guest.wait_number(at, guest.number_at(at) + 1)) << "round " << round;
  }
}

// What a vCPU does that runs into something: it holds all, itself too, from its own thread.
TEST(VcpuThreads, HoldFromAVcpusThread) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 2});
  MachineCode code(kCode);
  const std::uint64_t loop = code.here();
  guest.put(code.increment_own(kData).out8(kCallPort, 1).jmp(loop), kCode);
  std::mutex mutex;
  std::condition_variable called;
  int calls = 0;
  guest.start([&](Vcpu&, int) -> std::optional<VcpuThreads::Next> {
    guest.threads->hold();
    const std::lock_guard lock(mutex);
    ++calls;
    called.notify_all();
    return VcpuThreads::Next::kPark;
  });
  for (int round = 0; round < 100; ++round) {
    {
      const std::lock_guard lock(mutex);
      calls = 0;
    }
    guest.go();
    {
      std::unique_lock lock(mutex);
      ASSERT_TRUE(called.wait_for(lock, 20s, [&] { return calls > 0; })) << "round " << round;
    }
    ASSERT_TRUE(guest.threads->wait_parked(10s).missing.empty()) << "round " << round;
  }
  // Each OUT was completed once: no vCPU is more than one call ahead of its count of loops.
  EXPECT_GE(guest.number_at(kData) + guest.number_at(kData + 8), 100U);
}

TEST(VcpuThreads, EndWhileSpinning) {
  NEEDS_KVM();
  const Belongings before = belongings();
  {
    TinyGuest guest({.vcpus = 4});
    put_spinner(guest);
    guest.start();
    guest.go();
    ASSERT_TRUE(guest.wait_number(kData, 1));
    EXPECT_TRUE(guest.threads->end());
    EXPECT_TRUE(guest.threads->end());
  }
  EXPECT_EQ(belongings(), before);
}

TEST(VcpuThreads, EndWhileHalted) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 2});
  guest.put(MachineCode(kCode).increment_own(kData).halt_for_ever(), kCode);
  guest.start();
  guest.go();
  ASSERT_TRUE(guest.wait_number(kData, 1));
  ASSERT_TRUE(guest.wait_number(kData + 8, 1));
  EXPECT_TRUE(guest.threads->end());
}

// The CPUs that nobody starts wait inside of KVM_RUN.
TEST(VcpuThreads, WaitingForTheirStart) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 4, .wait_for_start = true});
  put_spinner(guest);
  guest.start();
  for (int round = 0; round < 20; ++round) {
    guest.go();
    ASSERT_TRUE(guest.wait_number(kData, static_cast<std::uint64_t>(round)));
    ASSERT_TRUE(guest.hold().missing.empty()) << "round " << round;
  }
  guest.go();
  EXPECT_TRUE(guest.threads->end());
  EXPECT_FALSE(guest.ended());
}

TEST(VcpuThreads, EndBeforeTheFirstGo) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 2});
  put_spinner(guest);
  guest.start();
  EXPECT_TRUE(guest.threads->end());
  EXPECT_EQ(guest.number_at(kData), 0U);
}

TEST(VcpuThreads, PinnedToAHostCpuThatIsNotThere) {
  NEEDS_KVM();
  const Belongings before = belongings();
  {
    TinyGuest guest({.vcpus = 2});
    VcpuThreads threads;
    const auto started = threads.start(
        guest.guest->vcpus, [](Vcpu&, int) { return VcpuThreads::Next::kPark; }, {.host_cpus = {0, 1000}});
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code(), ErrorCode::kHost);
    EXPECT_NE(started.error().to_string().find("cannot pin vCPU 1 to host CPU 1000"), std::string::npos)
        << started.error().to_string();
  }
  EXPECT_EQ(belongings(), before);
}

// A vCPU that spins in the guest is where one looks first; it comes, so what is said of it is asked while it
// runs.
TEST(VcpuThreads, WhereaboutsOfOneInTheGuest) {
  NEEDS_KVM();
  TinyGuest guest;
  MachineCode code(kCode);
  code.out8(kCallPort, 1);
  const std::uint64_t after = code.here();
  guest.put(code.increment_own(kData).spin_for_ever(), kCode);
  guest.start();
  EXPECT_EQ(guest.threads->whereabouts(0).to_string(), "parked");
  guest.go();
  ASSERT_TRUE(guest.wait_number(kData, 1));
  const VcpuWhereabouts where = guest.threads->whereabouts(0);
  EXPECT_EQ(where.place, VcpuWhereabouts::Place::kInKvm);
  EXPECT_EQ(where.last_exit, "KVM_EXIT_IO, a write to port 0x1234");
  // At the OUT, or behind it: processors differ.
  if (where.rip) {
    EXPECT_GE(*where.rip, after - 1);
    EXPECT_LE(*where.rip, after);
  }
  EXPECT_TRUE(where.to_string().starts_with("in KVM_RUN for ")) << where.to_string();
}

// Its exit's answer does not come: it is missing, and the report says where it is.
TEST(VcpuThreads, AHandlerThatDoesNotReturn) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 2});
  MachineCode code(kCode);
  const std::uint64_t loop = code.here();
  guest.put(code.increment_own(kData).out8(kCallPort, 1).jmp(loop), kCode);
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  std::promise<void> entered;
  guest.start([&](Vcpu& vcpu, int) -> std::optional<VcpuThreads::Next> {
    if (vcpu.index() != 1) return std::nullopt;
    if (released.wait_for(0s) != std::future_status::ready) entered.set_value();
    released.wait();
    return std::nullopt;
  });
  guest.go();
  ASSERT_EQ(entered.get_future().wait_for(20s), std::future_status::ready);
  guest.threads->hold();
  PauseReport report = guest.threads->wait_parked(100ms);
  EXPECT_EQ(report.missing, std::vector<std::uint32_t>{1});
  EXPECT_TRUE(report.stopped_after[0]);
  EXPECT_FALSE(report.stopped_after[1]);
  EXPECT_TRUE(guest.threads->parked(0));
  EXPECT_FALSE(guest.threads->parked(1));
  EXPECT_EQ(guest.threads->whereabouts(0).to_string(), "parked");
  ASSERT_EQ(report.missing_at.size(), 1U);
  const std::string detail = report.missing_at[0].text;
  EXPECT_NE(detail.find("vCPU 1 is having an exit answered for 0."), std::string::npos) << detail;
  EXPECT_NE(detail.find("last exit: KVM_EXIT_IO, a write to port 0x1234"), std::string::npos) << detail;
  EXPECT_NE(detail.find("sleeps in the host's kernel"), std::string::npos) << detail;
  release.set_value();
  EXPECT_TRUE(guest.hold().missing.empty());
}

// What it uses stays, and everything else goes on.
TEST(VcpuThreads, EndLeavesAThreadThatDoesNotCome) {
  NEEDS_KVM();
  TinyGuest guest({.vcpus = 2});
  MachineCode code(kCode);
  const std::uint64_t loop = code.here();
  guest.put(code.increment_own(kData).out8(kCallPort, 1).jmp(loop), kCode);
  // Both outlive the program: the thread waits for ever.
  static auto& entered = *new std::promise<void>;
  static auto& never = *new std::promise<void>;
  guest.start(
      [](Vcpu& vcpu, int) -> std::optional<VcpuThreads::Next> {
        if (vcpu.index() != 1) return std::nullopt;
        entered.set_value();
        never.get_future().wait();
        return std::nullopt;
      },
      {.end_limit = 100ms});
  guest.go();
  ASSERT_EQ(entered.get_future().wait_for(20s), std::future_status::ready);
  EXPECT_FALSE(guest.threads->end());
  EXPECT_FALSE(guest.threads->end());
}

}  // namespace
}  // namespace ktstr::kvm::tiny
