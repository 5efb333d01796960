#include "host/monitor/freeze_coordinator.h"

#include <algorithm>
#include <memory>
#include <optional>

#include <gtest/gtest.h>

#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/inspect/scx/dump_lookup.h"
#include "tests/unit/kernel/test_image.h"
#include "tests/unit/monitor/fake_machine.h"

namespace ktstr::test {
namespace {

constexpr std::uint64_t kClaim = FakeGuest::kText + 0x1000;
constexpr std::uint64_t kBackstop = FakeGuest::kText + 0x2000;
constexpr std::uint64_t kDumped = FakeGuest::kText + 0x3000;
constexpr std::uint64_t kError = 1025;
constexpr std::uint64_t kUnregister = 64;

// A fake guest, its kernel as a vmlinux, and a machine that stands where it is told.
class FreezeTest : public testing::Test {
 protected:
  FreezeTest() {
    ElfOptions elf;
    elf.btf = guest_.btf();
    elf.padding = 0x400000;  // so that all symbols are within the kernel
    for (const auto& [name, address] : guest_.symbol_list()) elf.symbols.push_back({name, address});
    auto image = KernelImage::open(dir_.file("vmlinux", make_elf(elf)), ImageCache(dir_.path("cache")));
    if (!image) throw std::runtime_error(image.error().to_string());
    image_ = std::make_unique<KernelImage>(std::move(*image));
    const ElfSection& notes = *image_->elf().section(".notes");
    guest_.physical().write(Gpa(notes.address - FakeGuest::kText + FakeGuest::kImagePa), notes.bytes);
    auto dumper = ScxDumper::create(*image_, {}, 4);
    if (!dumper) throw std::runtime_error(dumper.error().to_string());
    dumper_ = std::move(*dumper);
  }

  using OnStopped = std::function<Expected<void>(std::uint32_t, const StoppedGuest&)>;
  FreezeCoordinator& coordinator(FreezeCoordinator::Options options = {}, OnStopped on_stopped = {}) {
    coordinator_.emplace(
        machine_, *dumper_, options,
        FreezeCoordinator::Receivers{
            .on_dump =
                [this](std::uint32_t number, v1::Dump&& dump) {
                  EXPECT_EQ(number, dumps_.size() + 1);
                  dumps_.push_back(std::move(dump));
                },
            .on_stopped = std::move(on_stopped),
            .on_note = [this](const std::string& text) { notes_.push_back(text); },
            .on_disturbance = [this](const std::string& why) { disturbances_.push_back(why); }});
    return *coordinator_;
  }
  // A vCPU comes to a trap.
  bool hit(std::uint64_t address, std::uint64_t kind = 0, std::uint32_t cpu = 1) {
    machine_.vcpu(cpu).rip = address;
    machine_.vcpu(cpu).rdi = guest_.root().value();
    machine_.vcpu(cpu).rsi = kind;
    machine_.calls.clear();
    MachineEvent event;
    event.kind = MachineEvent::Kind::kTrapped;
    event.cpu = cpu;
    event.address = address;
    event.pause = machine_.report;
    event.trapped_by = "port trap";
    return coordinator_->on_trap(event);
  }
  void claim(std::uint64_t kind) { guest_.set(guest_.root(), "scx_sched", "exit_kind.counter", kind); }
  bool resumed() const {
    return std::count(machine_.calls.begin(), machine_.calls.end(), "resume") == 1 &&
           machine_.calls.back() == "resume";
  }

  ScratchDir dir_;
  FakeGuest guest_;
  FakeMachine machine_{guest_, 4};
  std::unique_ptr<KernelImage> image_;
  std::unique_ptr<ScxDumper> dumper_;
  std::optional<FreezeCoordinator> coordinator_;
  std::vector<v1::Dump> dumps_;
  std::vector<std::string> notes_, disturbances_;
};

TEST_F(FreezeTest, ArmsTwoTrapsBeforeTheStart) {
  ASSERT_TRUE(coordinator().arm_before_start());
  EXPECT_TRUE(coordinator_->armed());
  EXPECT_EQ(machine_.traps, (std::vector<std::uint64_t>{kClaim, kBackstop}));
  // With KASLR the place is not known yet.
  coordinator({.no_kaslr = false});
  ASSERT_TRUE(coordinator_->arm_before_start());
  EXPECT_FALSE(coordinator_->armed());
}

TEST_F(FreezeTest, ArmsARunningMachine) {
  ASSERT_TRUE(coordinator().arm_running());
  EXPECT_EQ(machine_.calls, (std::vector<std::string>{"pause", "traps 2", "resume"}));
  EXPECT_EQ(disturbances_.size(), 1u);
  ASSERT_TRUE(coordinator_->arm_running());
  EXPECT_EQ(machine_.calls.size(), 3u);
}

TEST_F(FreezeTest, AnEndInGoodOrderIsNotDumped) {
  coordinator();
  EXPECT_TRUE(hit(kClaim, kUnregister));
  EXPECT_TRUE(resumed());
  EXPECT_TRUE(hit(kClaim, 1023));
  claim(kUnregister);
  EXPECT_TRUE(hit(kBackstop));
  EXPECT_TRUE(resumed());
  coordinator_->finish();
  EXPECT_TRUE(dumps_.empty());
  EXPECT_EQ(disturbances_.size(), 3u);
}

TEST_F(FreezeTest, AnErrorIsDumpedOnce) {
  coordinator();
  guest_.queue(guest_.add_user_dsq(7), guest_.add_task({.pid = 42, .comm = "stuck"}));
  EXPECT_TRUE(hit(kClaim, kError, 2));
  EXPECT_TRUE(resumed());
  EXPECT_EQ(machine_.traps, (std::vector<std::uint64_t>{kClaim, kBackstop, kDumped}));
  EXPECT_TRUE(dumps_.empty());  // waits for the kernel's words
  // Another CPU comes with an error; the exit is claimed by now.
  claim(kError);
  EXPECT_TRUE(hit(kClaim, 1026, 3));
  EXPECT_TRUE(resumed());
  guest_.fail_sched(guest_.root(), kError, "runtime error", "the message");
  EXPECT_TRUE(hit(kBackstop));
  EXPECT_TRUE(dumps_.empty());
  guest_.set(guest_.exit_info(guest_.root()), "scx_exit_info", "dump", guest_.text("KERNEL DUMP").value());
  EXPECT_TRUE(hit(kDumped));
  EXPECT_TRUE(resumed());
  EXPECT_EQ(machine_.traps, (std::vector<std::uint64_t>{kClaim, kBackstop}));
  ASSERT_EQ(dumps_.size(), 1u);
  EXPECT_EQ(coordinator_->dumps(), 1u);
  const v1::DumpHeader& header = dumps_[0].header();
  EXPECT_EQ(header.reason(), "trap");
  EXPECT_EQ(header.trap(), "scx_vexit");
  EXPECT_EQ(header.trap_address(), kClaim);
  EXPECT_EQ(header.trap_cpu(), 2u);
  EXPECT_EQ(header.trapped_by(), "port trap");
  EXPECT_EQ(header.trap_exit_kind(), kError);
  EXPECT_EQ(header.trap_exit_kind_name(), "SCX_EXIT_ERROR_BPF");
  EXPECT_EQ(header.trap_sched(), guest_.root().value());
  EXPECT_EQ(pids_of(dsq_of(dumps_[0], "user DSQ 0x7")), std::vector<std::int32_t>{42});
  EXPECT_EQ(dumps_[0].scheds(0).exit_kind(), 0);  // as it was at the trap
  const v1::ScxExitInfo& info = dumps_[0].scheds(0).exit_info();
  EXPECT_EQ(info.msg(), "the message");
  EXPECT_EQ(info.dump(), "KERNEL DUMP");
  EXPECT_EQ(info.read(), "after the kernel's own dump");
  EXPECT_EQ(dumps_[0].cpus(2).vcpu().symbol(), "scx_vexit");
  EXPECT_TRUE(notes_.empty());
}

// As on a disk that is full.
TEST_F(FreezeTest, ADumpWithoutItsCoreIsIncomplete) {
  coordinator({}, [](std::uint32_t number, const StoppedGuest& guest) -> Expected<void> {
    EXPECT_EQ(number, 1u);
    EXPECT_EQ(guest.registers.size(), 4u);
    return fail(ErrorCode::kHost, "no space left");
  });
  EXPECT_TRUE(hit(kClaim, kError));
  EXPECT_TRUE(resumed());
  coordinator_->finish();
  ASSERT_EQ(dumps_.size(), 1u);
  EXPECT_TRUE(dumps_[0].header().incomplete().starts_with("no core: ")) << dumps_[0].header().incomplete();
  EXPECT_NE(dumps_[0].header().incomplete().find("no space left"), std::string::npos);
  EXPECT_EQ(notes_.size(), 1u);
  EXPECT_EQ(dumps_[0].cpus_size(), 4);
}

TEST_F(FreezeTest, ExitInfoOfTheBackstop) {
  coordinator();
  hit(kClaim, kError);
  guest_.fail_sched(guest_.root(), kError, "runtime error", "the message");
  hit(kBackstop);
  coordinator_->finish();
  ASSERT_EQ(dumps_.size(), 1u);
  EXPECT_EQ(dumps_[0].scheds(0).exit_info().msg(), "the message");
  EXPECT_EQ(dumps_[0].scheds(0).exit_info().read(), "before the kernel's own dump");
  coordinator_->finish();
  EXPECT_EQ(dumps_.size(), 1u);
}

TEST_F(FreezeTest, TheBackstopTakesTheDump) {
  coordinator();
  guest_.fail_sched(guest_.root(), 1026, "stall", "unseen");
  // This function's argument is not the scheduler.
  EXPECT_TRUE(hit(kBackstop));
  EXPECT_TRUE(resumed());
  coordinator_->finish();
  ASSERT_EQ(dumps_.size(), 1u);
  EXPECT_EQ(dumps_[0].header().trap(), "scx_disable_irq_workfn");
  EXPECT_EQ(dumps_[0].header().trap_exit_kind_name(), "SCX_EXIT_ERROR_STALL");
}

TEST_F(FreezeTest, StopsOnTheTrap) {
  coordinator({.stop_on_trap = true});
  EXPECT_TRUE(hit(kClaim, kUnregister));
  EXPECT_FALSE(hit(kClaim, kError));
  EXPECT_EQ(std::count(machine_.calls.begin(), machine_.calls.end(), "resume"), 0);
  EXPECT_EQ(dumps_.size(), 1u);  // nothing is to come
}

// The guest never gets to write its message; what it is made from is there.
TEST_F(FreezeTest, AStoppedGuestsMessageComesFromTheArguments) {
  coordinator({.stop_on_trap = true});
  const Kva overflow = guest_.alloc(16);
  guest_.write(overflow, std::uint64_t{73});
  const Kva list = guest_.alloc(24);
  guest_.write(list, std::uint32_t{48});
  guest_.write(list + 8, overflow.value());
  machine_.vcpu(1).rcx = guest_.text("task %d failed").value();
  machine_.vcpu(1).r8 = list.value();
  EXPECT_FALSE(hit(kClaim, kError));
  ASSERT_EQ(dumps_.size(), 1u);
  EXPECT_EQ(dumps_[0].scheds(0).exit_info().msg(), "task 73 failed");
  EXPECT_EQ(dumps_[0].scheds(0).exit_info().read(), "at the trap, from the arguments of scx_vexit");
  EXPECT_EQ(coordinator_->failure(), "SCX_EXIT_ERROR_BPF: task 73 failed");
}

TEST_F(FreezeTest, AMessageThatCannotBeReadIsAbsentWithAReason) {
  coordinator({.stop_on_trap = true});
  EXPECT_FALSE(hit(kClaim, kError));
  ASSERT_EQ(dumps_.size(), 1u);
  EXPECT_EQ(coordinator_->failure(), "SCX_EXIT_ERROR_BPF");
  const auto& absent = dumps_[0].absent();
  EXPECT_TRUE(std::any_of(absent.begin(), absent.end(), [](const v1::Absence& absence) {
    return absence.what().starts_with("exit message") && !absence.reason().empty();
  }));
}

TEST_F(FreezeTest, CountsHowLongTheGuestStoodStill) {
  coordinator();
  EXPECT_EQ(coordinator_->stood_still().count(), 0);
  EXPECT_TRUE(hit(kClaim, kUnregister));
  const auto once = coordinator_->stood_still();
  EXPECT_GT(once.count(), 0);
  ASSERT_TRUE(coordinator_->dump_now("request"));
  EXPECT_GT(coordinator_->stood_still(), once);
}

TEST_F(FreezeTest, OnDemand) {
  coordinator();
  machine_.report.missing = {3};
  machine_.report.missing_at = {{"vCPU 3 is in KVM_RUN for 10.000 s", FakeGuest::kText + 0x5000}};
  machine_.report.rendezvous = std::chrono::microseconds(7);
  machine_.report.clock_held = "kvmclock";
  machine_.report.stopped_after = {std::chrono::nanoseconds(100), std::nullopt};
  ASSERT_TRUE(coordinator_->dump_now("request"));
  EXPECT_EQ(machine_.calls, (std::vector<std::string>{"pause", "resume"}));
  ASSERT_EQ(dumps_.size(), 1u);
  const v1::DumpHeader& header = dumps_[0].header();
  EXPECT_EQ(header.reason(), "request");
  EXPECT_EQ(header.trap(), "");
  EXPECT_EQ(header.rendezvous_ns(), 7000u);
  EXPECT_EQ(header.clock_held(), "kvmclock");
  EXPECT_EQ(header.trapped_by(), "");
  ASSERT_EQ(header.vcpus_missing_size(), 1);
  EXPECT_EQ(header.vcpus_missing(0), 3u);
  ASSERT_EQ(header.vcpus_missing_where_size(), 1);
  EXPECT_TRUE(header.vcpus_missing_where(0).starts_with("vCPU 3 is in KVM_RUN for 10.000 s ["))
      << header.vcpus_missing_where(0);
  EXPECT_EQ(dumps_[0].cpus(0).vcpu().stopped_after_ns(), 100u);
  EXPECT_FALSE(dumps_[0].cpus(1).vcpu().has_stopped_after_ns());
  EXPECT_EQ(reason_of(dumps_[0], "Vcpu.stopped_after_ns"),
            "nothing tells when vCPU 1-3 stopped; rendezvous_ns of the header is until all had");
  EXPECT_EQ(header.kernel_release(), kRelease);
  ASSERT_TRUE(coordinator_->dump_now("signal", false));
  EXPECT_EQ(machine_.calls.back(), "pause");
  EXPECT_EQ(dumps_.size(), 2u);
}

TEST_F(FreezeTest, AWaitingDumpIsHandedOutBeforeTheNext) {
  coordinator();
  hit(kClaim, kError);
  ASSERT_TRUE(coordinator_->dump_now("request"));
  ASSERT_EQ(dumps_.size(), 2u);
  EXPECT_EQ(dumps_[0].header().reason(), "trap");
  EXPECT_EQ(dumps_[1].header().reason(), "request");
}

TEST_F(FreezeTest, AMachineThatDoesNotStopOrGoOn) {
  coordinator();
  machine_.can_pause = false;
  EXPECT_FALSE(coordinator_->dump_now("request"));
  machine_.can_pause = true;
  machine_.can_resume = false;
  EXPECT_TRUE(coordinator_->dump_now("request"));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("it does not go on"), std::string::npos) << notes_[0];
  EXPECT_EQ(dumps_.size(), 1u);
}

// A core has the registers, but not whether a vCPU was halted. That is not the same as false.
TEST_F(FreezeTest, WhatIsNotKnownToBeHaltedIsAbsentWithAReason) {
  const auto vcpu_1 = [&](std::optional<bool> halted) {
    std::vector<std::optional<VcpuRegisters>> registers;
    for (std::uint32_t cpu = 0; cpu < 4; ++cpu) {
      registers.emplace_back(machine_.vcpu(cpu));
      registers.back()->halted = halted;
    }
    const StoppedGuest guest{guest_.physical().memory(), registers, nullptr, Kva(FakeGuest::kText)};
    if (auto located = dumper_->locate(guest); !located) ADD_FAILURE() << located.error().to_string();
    auto captured = dumper_->capture(guest, Kva());
    EXPECT_TRUE(captured);
    const v1::Dump dump = dumper_->inspect(*captured);
    const auto& absent = dump.absent();
    const bool said = std::any_of(absent.begin(), absent.end(), [](const v1::Absence& absence) {
      return absence.what() == "Vcpu.halted" && !absence.reason().empty();
    });
    EXPECT_EQ(said, !halted);
    return dump.cpus(1).vcpu();
  };
  EXPECT_FALSE(vcpu_1(std::nullopt).has_halted());
  EXPECT_TRUE(vcpu_1(false).has_halted());
  EXPECT_TRUE(vcpu_1(true).halted());
}

TEST_F(FreezeTest, NotMoreThanWanted) {
  coordinator({.max_dumps = 1});
  ASSERT_TRUE(coordinator_->dump_now("request"));
  EXPECT_FALSE(coordinator_->dump_now("request"));
  EXPECT_TRUE(hit(kClaim, kError));
  EXPECT_TRUE(resumed());
  coordinator_->finish();
  EXPECT_EQ(dumps_.size(), 1u);
}

TEST_F(FreezeTest, AKernelThatIsNotFound) {
  coordinator();
  for (std::uint32_t cpu = 0; cpu < 4; ++cpu) machine_.vcpu(cpu).cr3 = 0;
  EXPECT_FALSE(coordinator_->dump_now("request"));
  EXPECT_EQ(machine_.calls.back(), "resume");
  EXPECT_TRUE(hit(kClaim, kError));
  EXPECT_TRUE(resumed());
  EXPECT_EQ(notes_.size(), 1u);
  EXPECT_TRUE(dumps_.empty());
}

TEST_F(FreezeTest, AnAddressThatIsNoTrap) {
  coordinator();
  EXPECT_TRUE(hit(FakeGuest::kText + 0x9000, kError));
  EXPECT_TRUE(resumed());
  EXPECT_TRUE(dumps_.empty());
}

}  // namespace
}  // namespace ktstr::test
