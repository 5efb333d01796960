// Guests that are saved and go on in other machines.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/stat.h>

#include <chrono>
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "host/machine/host_cpus.h"
#include "tests/unit/machine/kvm/saved_guest.h"
#include "tests/unit/machine/kvm/temp_file.h"
#include "tests/unit/machine/kvm/virtio_driver.h"

namespace ktstr::kvm::tiny {
namespace {

using SnapshotTest = SavedGuestTest;

TEST_F(SnapshotTest, ACloneGoesOnWhereItsBaseStood) {
  MachineCode code(kKernel);
  code.raw({0x49, 0xbf, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11});  // mov $0x1122334455667788, %r15
  wait_for_flag(code).out8(kSerialPort, 'x').power_off();
  TinyMachine base(tiny_spec(code, 2));
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 100));
  ASSERT_TRUE(save(base, snapshot_));
  const VcpuRegisters saved = base->registers(0).value();
  const VcpuRegisters waiting = base->registers(1).value();
  const std::uint64_t counted = base.number_at(kCounter);

  TinyMachine clone(clone_spec(snapshot_, 2));
  ASSERT_TRUE(starts(clone));
  ASSERT_TRUE(clone.wait_number(kCounter, counted + 100));
  ASSERT_TRUE(clone.pause());
  const VcpuRegisters now = clone->registers(0).value();
  EXPECT_EQ(now.r15, 0x1122334455667788U);
  EXPECT_EQ(now.rbp, saved.rbp);
  EXPECT_EQ(now.cr0, saved.cr0);
  EXPECT_EQ(now.cr3, saved.cr3);
  EXPECT_EQ(now.cr4, saved.cr4);
  EXPECT_EQ(now.efer, saved.efer);
  EXPECT_EQ(now.gdt_base, saved.gdt_base);
  EXPECT_EQ(now.cs, saved.cs);
  EXPECT_GE(now.rip, kKernel);
  EXPECT_LT(now.rip, kKernel + 4096);
  // The other one waits for its start-up interrupt.
  EXPECT_EQ(clone->registers(1).value(), waiting);

  clone.set_number(kFlag, 1);
  ASSERT_TRUE(clone->resume());
  ASSERT_TRUE(clone.run_to_event(MachineEvent::Kind::kPoweredOff));
  EXPECT_EQ(clone.serial, "x");
  // The base knows nothing of it, and goes on too.
  EXPECT_EQ(base.number_at(kCounter), counted);
  ASSERT_TRUE(base->resume());
  ASSERT_TRUE(base.wait_number(kCounter, counted + 1));
  base.set_number(kFlag, 1);
  ASSERT_TRUE(base.run_to_event(MachineEvent::Kind::kPoweredOff));
  EXPECT_EQ(base.serial, "x");
}

// What its CPUID says is part of what a clone must agree with.
TEST_F(SnapshotTest, PinnedVcpusAreATermOfItsUse) {
  if (usable_host_cpus() < 1) GTEST_SKIP() << "needs a whole CPU of the host";
  const MachineCode code = MachineCode(kKernel).power_off();
  TinyMachine plain(tiny_spec(code, 1));
  TinyMachine pinned(tiny_spec(code, 1), {.host_use = {.vcpu_cpus = {0}}});
  EXPECT_FALSE(plain->snapshot_terms().host.contains("pinned vCPUs"));
  EXPECT_TRUE(pinned->snapshot_terms().host.contains("pinned vCPUs"));
  // Of too many vCPUs for the host some wait for others, pinned or not.
  TinyMachine many(tiny_spec(code, 4000), {.host_use = {.vcpu_cpus = {0}}});
  EXPECT_FALSE(many->snapshot_terms().host.contains("pinned vCPUs"));
}

// Before its clone runs a single instruction, its state is that which was saved; but for clocks.
TEST_F(SnapshotTest, AStateSurvivesUnchanged) {
  MachineCode code(kKernel);
  // MSRs that programs set: the address of SYSCALL's handler, the memory type table, the kernel's GS base.
  code.write_msr(0xc0000082, 0x12345678).write_msr(0xc0000102, 0x5eed0000).write_msr(0xc0000081, 0);
  code.out8(kSerialPort + 7, 0x5a);
  wait_for_flag(code).power_off();
  TinyMachine base(tiny_spec(code, 2));
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 1));
  ASSERT_TRUE(save(base, snapshot_));
  const v1::KvmState saved = state_of(snapshot_);
  EXPECT_EQ(saved.serial().scratch(), 0x5aU);
  const auto msr = [](const v1::KvmState& state, std::uint32_t index) -> std::uint64_t {
    for (const v1::KvmMsr& one : state.vcpus(0).msrs())
      if (one.index() == index) return one.value();
    return ~std::uint64_t{0};
  };
  EXPECT_EQ(msr(saved, 0xc0000082), 0x12345678U);
  EXPECT_EQ(msr(saved, 0xc0000102), 0x5eed0000U);
  EXPECT_EQ(msr(saved, 0x2ff), 0x806U) << "memory types, which are not in KVM's own list";

  // A clone that is built and saved without having run: by the parts of the machine.
  const BootSpec spec = clone_spec(snapshot_, 2);
  auto guest = build_guest(spec, "", {}, {});
  ASSERT_TRUE(guest) << guest.error().to_string();
  ASSERT_TRUE((*guest)->times);
  v1::KvmState again;
  const auto second = save_kvm_state(**guest, *(*guest)->times, again);
  ASSERT_TRUE(second) << second.error().to_string();
  again.set_version(saved.version());
  again.set_end(saved.end());
  ASSERT_EQ(again.vcpus_size(), saved.vcpus_size());
  for (int i = 0; i < again.vcpus_size(); ++i) {
    EXPECT_EQ(again.vcpus(i).regs(), saved.vcpus(i).regs()) << i;
    EXPECT_EQ(again.vcpus(i).sregs(), saved.vcpus(i).sregs()) << i;
    EXPECT_EQ(again.vcpus(i).events(), saved.vcpus(i).events()) << i;
    EXPECT_EQ(again.vcpus(i).xsave(), saved.vcpus(i).xsave()) << i;
    EXPECT_EQ(again.vcpus(i).xcrs(), saved.vcpus(i).xcrs()) << i;
    EXPECT_EQ(again.vcpus(i).debug_regs(), saved.vcpus(i).debug_regs()) << i;
    EXPECT_EQ(again.vcpus(i).lapic(), saved.vcpus(i).lapic()) << i;
    EXPECT_EQ(again.vcpus(i).mp_state(), saved.vcpus(i).mp_state()) << i;
    ASSERT_EQ(again.vcpus(i).msrs_size(), saved.vcpus(i).msrs_size()) << i;
    for (int m = 0; m < again.vcpus(i).msrs_size(); ++m) {
      EXPECT_EQ(again.vcpus(i).msrs(m).index(), saved.vcpus(i).msrs(m).index());
      EXPECT_EQ(again.vcpus(i).msrs(m).value(), saved.vcpus(i).msrs(m).value())
          << std::hex << saved.vcpus(i).msrs(m).index();
    }
  }
  EXPECT_EQ(again.chip().io_apic(), saved.chip().io_apic());
  EXPECT_EQ(again.chip().pic_master(), saved.chip().pic_master());
  EXPECT_EQ(again.serial().SerializeAsString(), saved.serial().SerializeAsString());
  EXPECT_EQ(again.console_registers().SerializeAsString(), saved.console_registers().SerializeAsString());
  EXPECT_EQ(again.console().SerializeAsString(), saved.console().SerializeAsString());
  EXPECT_EQ(again.cpuid_digest(), saved.cpuid_digest());
  EXPECT_EQ(again.kvmclock_ns(), saved.kvmclock_ns());
}

TEST_F(SnapshotTest, ClonesShareNothingThatIsWritten) {
  MachineCode code(kKernel);
  const std::uint64_t loop = code.here();
  code.increment(kCounter).mov_rbx(kInput).load_eax_rbx().mov_rbx(kCopy).store_rbx_rax().jmp(loop);
  TinyMachine base(tiny_spec(code));
  ASSERT_TRUE(starts(base));
  base.set_number(kInput, 1000);
  ASSERT_TRUE(base.wait_number(kCopy, 1000));
  ASSERT_TRUE(save(base, snapshot_));
  const std::string before = hash(snapshot_.ram);

  TinyMachine one(clone_spec(snapshot_)), other(clone_spec(snapshot_));
  ASSERT_TRUE(starts(one));
  ASSERT_TRUE(starts(other));
  one.set_number(kInput, 1001);
  other.set_number(kInput, 1002);
  // Also where nobody has written before: a hole of the file.
  constexpr std::uint64_t kUntouched = std::uint64_t{40} << 20;
  EXPECT_EQ(one.number_at(kUntouched), 0U);
  one.set_number(kUntouched, 77);
  ASSERT_TRUE(one.wait_number(kCopy, 1001));
  ASSERT_TRUE(other.wait_number(kCopy, 1002));
  EXPECT_EQ(one.number_at(kCopy), 1001U);
  EXPECT_EQ(other.number_at(kCopy), 1002U);
  EXPECT_EQ(other.number_at(kUntouched), 0U);
  EXPECT_EQ(base.number_at(kCopy), 1000U);
  one->stop();
  other->stop();
  EXPECT_EQ(hash(snapshot_.ram), before);
}

TEST_F(SnapshotTest, ACloneOfAClone) {
  MachineCode code(kKernel);
  wait_for_flag(code).out8(kSerialPort, 'x').power_off();
  TinySnapshot second;
  std::uint64_t counted = 0;
  {
    TinyMachine base(tiny_spec(code));
    ASSERT_TRUE(starts(base));
    ASSERT_TRUE(base.wait_number(kCounter, 10));
    ASSERT_TRUE(save(base, snapshot_));
    counted = base.number_at(kCounter);
    base->stop();
    TinyMachine clone(clone_spec(snapshot_));
    ASSERT_TRUE(starts(clone));
    ASSERT_TRUE(clone.wait_number(kCounter, counted + 10));
    clone.set_number(kInput, 4711);
    ASSERT_TRUE(save(clone, second));
    counted = clone.number_at(kCounter);
  }
  TinyMachine clone(clone_spec(second));
  ASSERT_TRUE(starts(clone));
  EXPECT_GE(clone.number_at(kCounter), counted);
  EXPECT_EQ(clone.number_at(kInput), 4711U);
  clone.set_number(kFlag, 1);
  ASSERT_TRUE(clone.run_to_event(MachineEvent::Kind::kPoweredOff));
  EXPECT_EQ(clone.serial, "x");
}

// ---------------------------------------------------------------------------------------------------------------------
// Devices

TEST_F(SnapshotTest, WhatWasPrintedAndNotHandedOnComesToBoth) {
  MachineCode code(kKernel);
  code.out8(kSerialPort, 'a');
  wait_for_flag(code).out8(kSerialPort, 'b').power_off();
  TinyMachine base(tiny_spec(code));
  ASSERT_TRUE(starts(base));
  // Nobody runs the loop meanwhile.
  ASSERT_TRUE(base.wait_number(kCounter, 1));
  ASSERT_TRUE(save(base, snapshot_));
  EXPECT_EQ(base.serial, "");
  for (const bool of_clone : {true, false}) {
    std::optional<TinyMachine> clone;
    if (of_clone) clone.emplace(clone_spec(snapshot_));
    TinyMachine& machine = of_clone ? *clone : base;
    ASSERT_TRUE(of_clone ? machine->start() : machine->resume());
    ASSERT_TRUE(machine.run_until([&] { return machine.serial == "a"; }));
    machine.set_number(kFlag, 1);
    ASSERT_TRUE(machine.run_to_event(MachineEvent::Kind::kPoweredOff));
    EXPECT_EQ(machine.serial, "ab");
  }
}

TEST_F(SnapshotTest, WhatTheGuestHasQueuedAndNobodyHasServedComesToTheClone) {
  const std::string_view text = "a message";
  MachineCode code(kKernel);
  // The program waits for its buffer first, then drives the queue and kicks.
  wait_for_flag(code);
  write_driver(code, {});
  const std::uint64_t loop = code.here();
  code.increment(kCopy).jmp(loop);
  TinyMachine base(tiny_spec(code));
  ASSERT_TRUE(starts(base));
  base.put(kBuffer, {text.begin(), text.end()});
  base.set_number(kDescriptors, kBuffer);
  base.set_number(kDescriptors + 8, text.size());
  base.set_number(kAvailable, 1 << 16);
  base.set_number(kFlag, 1);
  ASSERT_TRUE(base.wait_number(kCopy, 1));
  ASSERT_TRUE(save(base, snapshot_));
  const v1::KvmState state = state_of(snapshot_);
  ASSERT_GT(state.console_registers().queues_size(), 1);
  EXPECT_TRUE(state.console_registers().queues(kOutputQueue).ready());
  EXPECT_EQ(state.console_registers().queues(kOutputQueue).next_available(), 0U);

  TinyMachine clone(clone_spec(snapshot_));
  ASSERT_TRUE(starts(clone));
  ASSERT_TRUE(clone.run_until([&] { return clone.hvc.size() >= text.size(); }));
  EXPECT_EQ(clone.hvc, text);
  EXPECT_EQ(clone.number_at(kUsed) >> 16 & 0xffff, 1U);
  EXPECT_EQ(base.number_at(kUsed) >> 16 & 0xffff, 0U);
  ASSERT_TRUE(base->resume());
  ASSERT_TRUE(base.run_until([&] { return base.hvc.size() >= text.size(); }));
  EXPECT_EQ(base.hvc, text);
}

TEST_F(SnapshotTest, WhatWasSentToTheBaseIsNotReadByTheClone) {
  MachineCode code(kKernel);
  wait_for_flag(code).power_off();
  TinyMachine base(tiny_spec(code));
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 1));
  ASSERT_TRUE(base->frames().send("for the base"));
  ASSERT_TRUE(save(base, snapshot_));
  EXPECT_EQ(state_of(snapshot_).console().ports(kFramesPort).unread(), "for the base");
  TinyMachine clone(clone_spec(snapshot_));
  ASSERT_TRUE(starts(clone));
  ASSERT_TRUE(clone.pause());
  TinySnapshot second;
  ASSERT_TRUE(save(clone, second));
  EXPECT_EQ(state_of(second).console().ports(kFramesPort).unread(), "");
}

// ---------------------------------------------------------------------------------------------------------------------
// What cannot be saved or started

TEST_F(SnapshotTest, OnlyAPausedGuestIsSaved) {
  TinyMachine machine(tiny_spec(MachineCode(kKernel).spin_for_ever()));
  EXPECT_FALSE(machine->save(snapshot_.files()));
  ASSERT_TRUE(starts(machine));
  const auto saved = machine->save(snapshot_.files());
  ASSERT_FALSE(saved);
  EXPECT_EQ(saved.error().code(), ErrorCode::kHost);
  machine->stop();
  EXPECT_FALSE(machine->save(snapshot_.files()));
}

TEST_F(SnapshotTest, AFullDiskIsAnErrorAndTheGuestGoesOn) {
  MachineCode code(kKernel);
  wait_for_flag(code).power_off();
  TinyMachine machine(tiny_spec(code));
  ASSERT_TRUE(starts(machine));
  ASSERT_TRUE(machine.wait_number(kCounter, 1));
  ASSERT_TRUE(machine.pause());
  for (const bool of_ram : {true, false}) {
    SnapshotFiles files = snapshot_.files();
    (of_ram ? files.ram : files.state).reset(open("/dev/full", O_WRONLY | O_CLOEXEC));
    const auto saved = machine->save(files);
    ASSERT_FALSE(saved);
    EXPECT_EQ(saved.error().code(), ErrorCode::kHost);
    EXPECT_NE(saved.error().to_string().find("No space left on device"), std::string::npos)
        << saved.error().to_string();
  }
  ASSERT_TRUE(save(machine, snapshot_));
  machine.set_number(kFlag, 1);
  ASSERT_TRUE(machine->resume());
  EXPECT_TRUE(machine.run_to_event(MachineEvent::Kind::kPoweredOff));
}

// Each with the words that the error must have.
TEST_F(SnapshotTest, WhatDoesNotFitIsRefusedAndNothingIsLeftBehind) {
  MachineCode code(kKernel);
  wait_for_flag(code).power_off();
  TinyMachine base(tiny_spec(code));
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 1));
  ASSERT_TRUE(save(base, snapshot_));
  const v1::KvmState state = state_of(snapshot_);
  const auto refused = [&](const BootSpec& like, const std::string& bytes,
                           const UniqueFd* ram) -> std::string {
    const Belongings before = belongings();
    std::string why = "started";
    {
      BootSpec spec = clone_spec(snapshot_);
      spec.topology = like.topology;
      spec.memory_bytes = like.memory_bytes;
      spec.snapshot->state = file_of({bytes.begin(), bytes.end()});
      if (ram != nullptr) spec.snapshot->ram.reset(fcntl(ram->get(), F_DUPFD_CLOEXEC, 0));
      TinyMachine machine(std::move(spec));
      if (const auto started = machine->start(); !started) {
        EXPECT_EQ(started.error().code(), ErrorCode::kHost);
        why = started.error().to_string();
      }
    }
    EXPECT_EQ(belongings(), before) << why;
    return why;
  };
  const auto expect_refused = [](const std::string& why, const std::string& words) {
    EXPECT_NE(why.find(words), std::string::npos) << why;
  };
  const BootSpec same = tiny_spec(code);
  const std::string good = state.SerializeAsString();

  expect_refused(refused(tiny_spec(code, 2), good, nullptr), "has 1 vCPUs, this one 2");
  BootSpec larger = tiny_spec(code);
  larger.memory_bytes *= 2;
  expect_refused(refused(larger, good, nullptr), "memory of 67108864 bytes in its nodes, this one 134217728");
  expect_refused(refused(same, "", nullptr), "it is none of a kvm machine");
  expect_refused(refused(same, good.substr(0, good.size() - 1), nullptr), "cut off");
  const UniqueFd short_ram = file_of(std::vector<std::uint8_t>(8192));
  expect_refused(refused(same, good, &short_ram), "has 8192 bytes, and this guest's memory 67108864");

  const auto changed = [&](const std::function<void(v1::KvmState&)>& change) {
    v1::KvmState copy = state;
    change(copy);
    return refused(same, copy.SerializeAsString(), nullptr);
  };
  expect_refused(changed([](v1::KvmState& of) { of.set_version(2); }),
                 "version 2, and this program reads version 1");
  expect_refused(changed([](v1::KvmState& of) { of.set_cpuid_digest("other"); }), "another processor");
  expect_refused(changed([](v1::KvmState& of) { of.set_tsc_khz(of.tsc_khz() * 2); }), "TSC has");
  expect_refused(changed([](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_lapic()->resize(10); }),
                 "local APIC: 10 bytes, not 1024");
  expect_refused(changed([](v1::KvmState& of) { of.mutable_vcpus(0)->set_apic_id(5); }), "APIC id 5");
  expect_refused(changed([](v1::KvmState& of) { of.mutable_vcpus(0)->mutable_xsave()->resize(8192); }),
                 "8192 bytes of extended registers");
  expect_refused(changed([](v1::KvmState& of) {
                   v1::KvmMsr& msr = *of.mutable_vcpus(0)->add_msrs();
                   msr.set_index(0x12345678);
                   msr.set_value(1);
                 }),
                 "MSR 0x12345678");
  expect_refused(changed([](v1::KvmState& of) {
                   v1::VirtqueueState& queue = *of.mutable_console_registers()->mutable_queues(0);
                   of.mutable_console_registers()->set_status(15);
                   of.mutable_console_registers()->set_driver_features(std::uint64_t{1} << 32);
                   queue.set_ready(true);
                   queue.set_size(3);
                 }),
                 "size 3 is no power of two");
  // And the good one starts.
  EXPECT_EQ(refused(same, good, nullptr), "started");
}

// How long it takes, for whoever looks at the test's output; a busy host says nothing.
TEST_F(SnapshotTest, CostOfAClone) {
  MachineCode code(kKernel);
  wait_for_flag(code).power_off();
  TinyMachine base(tiny_spec(code, 2));
  ASSERT_TRUE(starts(base));
  ASSERT_TRUE(base.wait_number(kCounter, 1));
  ASSERT_TRUE(base.pause());
  const auto save_begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(base->save(snapshot_.files()));
  const auto save_end = std::chrono::steady_clock::now();
  TinyMachine clone(clone_spec(snapshot_, 2));
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(starts(clone));
  ASSERT_TRUE(clone.wait_number(kCounter, base.number_at(kCounter) + 1));
  const auto first_run = clone->statistics().first_run;
  ASSERT_TRUE(first_run);
  const auto milliseconds = [](auto time) {
    return std::to_string(std::chrono::duration<double, std::milli>(time).count());
  };
  RecordProperty("save_ms", milliseconds(save_end - save_begin));
  RecordProperty("start_to_first_run_ms", milliseconds(*first_run - begin));
}

}  // namespace
}  // namespace ktstr::kvm::tiny
