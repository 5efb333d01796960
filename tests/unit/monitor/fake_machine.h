// FakeMachine: a Machine without an emulator. Its memory is a FakeGuest's; it does as it is told and keeps
// a record of what it was asked for.
#pragma once

#include <string>
#include <vector>

#include "host/machine/machine.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace ktstr::test {

class FakeMachine : public Machine, private FrameLink {
 public:
  FakeMachine(FakeGuest& guest, std::uint32_t cpus) : guest_(guest), registers_(cpus) {
    for (VcpuRegisters& one : registers_) {
      one.cr3 = guest.page_tables().value();
      one.rip = FakeGuest::kText + 0x5000;
      one.cs = 0x10;
      one.halted = false;
    }
  }

  // What the tests look at, and set.
  std::vector<std::string> calls;  // "pause", "resume", "traps 2"
  std::vector<std::uint64_t> traps;
  PauseReport report;
  bool can_pause = true;
  bool can_resume = true;
  VcpuRegisters& vcpu(std::uint32_t cpu) { return registers_[cpu]; }

  std::string_view kind() const override { return "fake"; }
  const KernelCommandLine& command_line() const override { return command_line_; }
  Emulator emulator() const override { return {}; }
  std::vector<std::string> warnings() const override { return {}; }
  void set_console_receiver(ConsoleReceiver) override {}
  void set_event_receiver(EventReceiver) override {}
  FrameLink& frames() override { return *this; }
  Expected<void> start() override { return {}; }
  Expected<PauseReport> pause(std::chrono::nanoseconds) override {
    calls.push_back("pause");
    if (!can_pause) return fail(ErrorCode::kHost, "it does not stop");
    return report;
  }
  Expected<void> resume() override {
    calls.push_back("resume");
    if (!can_resume) return fail(ErrorCode::kHost, "it does not go on");
    return {};
  }
  Expected<void> set_traps(std::vector<std::uint64_t> addresses) override {
    traps = std::move(addresses);
    calls.push_back("traps " + std::to_string(traps.size()));
    return {};
  }
  Expected<std::string> save(const SnapshotFiles&) override {
    return fail(ErrorCode::kUsage, "nothing to save");
  }
  void stop() override { calls.push_back("stop"); }
  std::vector<RamRegion> ram() const override {
    std::vector<RamRegion> regions;
    for (auto& [gpa, bytes] : guest_.physical().segments()) regions.push_back({gpa.value(), bytes});
    return regions;
  }
  Expected<VcpuRegisters> registers(std::uint32_t cpu) override {
    if (cpu >= registers_.size()) return fail(ErrorCode::kHost, "no such vCPU");
    return registers_[cpu];
  }
  VcpuTime vcpu_time() const override { return {}; }

 private:
  void set_receiver(Receiver) override {}
  Expected<void> send(std::string_view) override { return {}; }
  bool can_send() const override { return false; }
  std::string_view guest_address() const override { return "none"; }

  FakeGuest& guest_;
  KernelCommandLine command_line_;
  std::vector<VcpuRegisters> registers_;
};

}  // namespace ktstr::test
