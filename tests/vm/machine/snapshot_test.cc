// A guest that is saved and gone on from, on either machine: what runs on is the same guest, and clones of it
// share nothing.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "common/mapping.h"
#include "common/xxh3.h"
#include "host/kernel/symbol_sources.h"
#include "host/memory/guest_memory.h"
#include "tests/vm/machine/machine_harness.h"

namespace ktstr::test {
namespace {

using std::chrono::seconds;
using Kind = MachineEvent::Kind;

UniqueFd copy_of(const UniqueFd& fd) {
  return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
}

// The beats that a console has shown: the last one's number and the guest's time then, ns.
struct Beat {
  std::uint64_t number = 0;
  std::uint64_t nanoseconds = 0;
};
std::vector<Beat> beats(const std::string& serial) {
  std::vector<Beat> all;
  for (std::size_t at = serial.find("BEAT "); at != std::string::npos; at = serial.find("BEAT ", at + 1)) {
    std::istringstream line(serial.substr(at, serial.find('\n', at) - at));
    std::string beat;
    std::uint64_t number = 0, sec = 0, nsec = 0;
    char point = 0, end = 0;
    // Whole, and not without its last digits.
    if (line >> beat >> number >> sec >> point >> nsec && line.get(end))
      all.push_back({number, sec * 1'000'000'000 + nsec});
  }
  return all;
}

class SnapshotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    kernel_ = test_kernel();
    if (!kernel_) GTEST_SKIP() << "KTSTR_TEST_KERNEL_72 does not name a kernel folder";
    files_.ram.reset(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    files_.state.reset(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    ASSERT_TRUE(files_.ram && files_.state);
  }

  BootSpec spec(const std::string& what) const { return test_boot_spec(*kernel_, what); }
  BootSpec clone_spec(const std::string& what) const {
    BootSpec clone = spec(what);
    clone.snapshot = SnapshotFiles{copy_of(files_.ram), copy_of(files_.state)};
    return clone;
  }

  // Boots a guest to `beats` beats, saves it, and leaves it paused.
  void save_at(MachineUnderTest& machine, std::size_t count) {
    ASSERT_TRUE(machine.start());
    ASSERT_TRUE(machine.run_until([&] { return beats(machine.serial).size() >= count; })) << machine.serial;
    const auto paused = machine->pause(seconds(20));
    ASSERT_TRUE(paused) << paused.error().to_string();
    const auto saved = machine->save(files_);
    ASSERT_TRUE(saved) << saved.error().to_string();
  }

  // The kernel names itself in its own memory (linux_banner), which runs from where it was linked: as many
  // bytes of that as its name should have. Empty when it cannot be read.
  std::string banner(Machine& machine) const {
    std::vector<MemoryRegion> regions;
    for (const RamRegion& region : machine.ram())
      regions.push_back({Gpa(region.gpa), region.host, region.process});
    const auto memory = GuestMemory::create(regions);
    const auto symbols = find_symbols(*kernel_);
    EXPECT_TRUE(memory && symbols);
    if (!memory || !symbols) return "";
    constexpr std::uint64_t kStartKernelMap = 0xffffffff80000000;
    const Gpa place(symbols->table.address("linux_banner").value_or(0) - kStartKernelMap);
    ReadBudget budget(std::uint64_t{1} << 20, 1000);
    const auto text = memory->read_c_string(place, 256, budget);
    return text ? text->text.substr(0, ("Linux version " + kernel_->release() + " ").size()) : "";
  }

  std::string ram_hash() const {
    struct stat st {};
    EXPECT_EQ(fstat(files_.ram.get(), &st), 0);
    const auto mapping =
        Mapping::map(files_.ram.get(), static_cast<std::uint64_t>(st.st_size), PROT_READ, MAP_PRIVATE);
    EXPECT_TRUE(mapping);
    return mapping ? Xxh3::hex_of(mapping->bytes()) : "";
  }

  std::optional<KernelImage> kernel_;
  SnapshotFiles files_;
};

// The longest time from one beat to the next, ns.
std::uint64_t longest_step(const std::vector<Beat>& seen) {
  std::uint64_t longest = 0;
  for (std::size_t i = 1; i < seen.size(); ++i)
    longest = std::max(longest, seen[i].nanoseconds - seen[i - 1].nanoseconds);
  return longest;
}

// Numbers follow each other, and the guest's clock goes on by no more than the host's did, which is
// `at_most`; a beat may be a second on its way. On a busy host either may be seconds.
void expect_goes_on(const std::vector<Beat>& seen, const Beat& after, std::chrono::nanoseconds at_most) {
  constexpr std::uint64_t kOnTheWay = 1'000'000'000;
  ASSERT_FALSE(seen.empty());
  EXPECT_LE(seen.front().number, after.number + 2);
  for (std::size_t i = 1; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].number, seen[i - 1].number + 1);
    EXPECT_GT(seen[i].nanoseconds, seen[i - 1].nanoseconds);
  }
  EXPECT_GT(seen.front().nanoseconds + kOnTheWay, after.nanoseconds);
  EXPECT_LE(seen.back().nanoseconds - after.nanoseconds,
            static_cast<std::uint64_t>(at_most.count()) + kOnTheWay);
  fmt::print(
      "{} beats: the first {} ms after the last one before, the longest step {} ms, all in {} ms of {}\n",
      seen.size(), (seen.front().nanoseconds - after.nanoseconds) / 1'000'000, longest_step(seen) / 1'000'000,
      (seen.back().nanoseconds - after.nanoseconds) / 1'000'000, at_most.count() / 1'000'000);
}

TEST_F(SnapshotTest, TheGuestThatWasSavedGoesOn) {
  MachineUnderTest machine(spec("beat"));
  save_at(machine, 20);
  ASSERT_FALSE(HasFailure());
  const std::size_t before = beats(machine.serial).size();
  const Beat last = beats(machine.serial).back();
  const auto begin = std::chrono::steady_clock::now();
  const auto resumed = machine->resume();
  ASSERT_TRUE(resumed) << resumed.error().to_string();
  ASSERT_TRUE(machine.run_until([&] { return beats(machine.serial).size() >= before + 50; }))
      << machine.serial;
  std::vector<Beat> seen = beats(machine.serial);
  fmt::print("before: longest step {} ms\n", longest_step({seen.begin(), seen.begin() + 20}) / 1'000'000);
  seen.erase(seen.begin(), seen.begin() + static_cast<std::ptrdiff_t>(before));
  expect_goes_on(seen, last, std::chrono::steady_clock::now() - begin);
}

TEST_F(SnapshotTest, ClonesGoOnWhereItStoodAndShareNothing) {
  constexpr auto kInTheCache = seconds(3);
  Beat last;
  {
    MachineUnderTest machine(spec("beat"));
    save_at(machine, 20);
    ASSERT_FALSE(HasFailure());
    last = beats(machine.serial).back();
  }
  const std::string hash = ram_hash();
  std::this_thread::sleep_for(kInTheCache);  // this is what is tested
  MachineUnderTest first(clone_spec("beat"));
  MachineUnderTest second(clone_spec("beat"));
  const auto begin = std::chrono::steady_clock::now();
  for (MachineUnderTest* clone : {&first, &second}) {
    const auto started = clone->start();
    ASSERT_TRUE(started) << started.error().to_string();
  }
  for (MachineUnderTest* clone : {&first, &second}) {
    ASSERT_TRUE(clone->run_until([&] { return beats(clone->serial).size() >= 50; })) << clone->serial;
    // The time between save and start is not the guest's.
    expect_goes_on(beats(clone->serial), last, std::chrono::steady_clock::now() - begin);
    EXPECT_EQ(clone->serial.find("soft lockup"), std::string::npos);
    EXPECT_EQ(clone->serial.find("Linux version"), std::string::npos);
  }
  EXPECT_EQ(ram_hash(), hash);
}

TEST_F(SnapshotTest, AClonesMemoryAndRegistersAreReadable) {
  {
    MachineUnderTest machine(spec("memory"));
    save_at(machine, 3);
    ASSERT_FALSE(HasFailure());
  }
  MachineUnderTest clone(clone_spec("memory"));
  const auto started = clone.start();
  ASSERT_TRUE(started) << started.error().to_string();
  ASSERT_TRUE(clone.run_until([&] { return beats(clone.serial).size() >= 3; })) << clone.serial;
  ASSERT_TRUE(clone->pause(seconds(20)));
  const auto registers = clone->registers(0);
  ASSERT_TRUE(registers) << registers.error().to_string();
  EXPECT_NE(registers->rip, 0u);
  EXPECT_EQ(banner(*clone), "Linux version " + kernel_->release() + " ");
}

TEST_F(SnapshotTest, TrapsOfACloneAreInForceFromItsStart) {
  auto symbols = find_symbols(*kernel_);
  ASSERT_TRUE(symbols) << symbols.error().to_string();
  const std::uint64_t trap = symbols->table.address("__sys_setregid").value_or(0);
  ASSERT_NE(trap, 0u);
  {
    MachineUnderTest machine(spec("callforever"));
    ASSERT_TRUE(machine.start());
    ASSERT_TRUE(machine.run_until_serial("CALL 3\r\n")) << machine.serial;
    ASSERT_TRUE(machine->pause(seconds(20)));
    const auto saved = machine->save(files_);
    ASSERT_TRUE(saved) << saved.error().to_string();
  }
  MachineUnderTest clone(clone_spec("callforever"));
  ASSERT_TRUE(clone->set_traps({trap}));
  ASSERT_TRUE(clone.start());
  std::uint64_t last = 0;
  for (std::size_t hits = 1; hits <= 5; ++hits) {
    ASSERT_TRUE(clone.run_until([&] { return clone.events.size() >= hits; })) << clone.serial;
    const MachineEvent& event = clone.events.back();
    ASSERT_EQ(event.kind, Kind::kTrapped) << event.detail;
    const auto registers = clone->registers(event.cpu);
    ASSERT_TRUE(registers) << registers.error().to_string();
    EXPECT_EQ(registers->rip, trap);
    if (hits > 1) {
      EXPECT_EQ(registers->rsi, last + 1);
    }
    last = registers->rsi;
    ASSERT_TRUE(clone->resume());
  }
  EXPECT_GE(last, 100u + 3);
}

TEST_F(SnapshotTest, FramesTravelInACloneAndItsMemoryOutlivesItsEnd) {
  {
    MachineUnderTest machine(spec("echo"));
    ASSERT_TRUE(machine.start());
    ASSERT_TRUE(machine.run_until_serial("ECHO 1\r\n")) << machine.serial;
    ASSERT_TRUE(machine->pause(seconds(20)));
    ASSERT_TRUE(machine->save(files_));
  }
  MachineUnderTest clone(clone_spec("echo"));
  ASSERT_TRUE(clone.start());
  ASSERT_TRUE(clone->frames().send("first words of a clone!"));
  ASSERT_TRUE(clone.run_until([&] { return clone.frames.find('!') != std::string::npos; })) << clone.serial;
  EXPECT_EQ(clone.frames, "first words of a clone!");
  // It switches itself off, and its memory is there until it is stopped.
  ASSERT_TRUE(clone->frames().send("."));
  const auto end = clone.run_to_end();
  ASSERT_TRUE(end) << clone.serial;
  EXPECT_EQ(end->kind, Kind::kPoweredOff) << end->detail;
  EXPECT_EQ(banner(*clone), "Linux version " + kernel_->release() + " ");
}

TEST_F(SnapshotTest, WhatIsNoSnapshotIsRefused) {
  {
    MachineUnderTest machine(spec("beat"));
    save_at(machine, 3);
    ASSERT_FALSE(HasFailure());
  }
  struct stat st {};
  ASSERT_EQ(fstat(files_.state.get(), &st), 0);
  ASSERT_EQ(ftruncate(files_.state.get(), st.st_size / 2), 0);
  MachineUnderTest torn(clone_spec("beat"));
  const auto started = torn.start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ErrorCode::kHost) << started.error().to_string();
}

TEST_F(SnapshotTest, ARunningGuestIsNotSaved) {
  MachineUnderTest machine(spec("beat"));
  ASSERT_TRUE(machine.start());
  ASSERT_TRUE(machine.run_until_serial("BEAT 1")) << machine.serial;
  EXPECT_FALSE(machine->save(files_));
  EXPECT_TRUE(machine.run_until_serial("BEAT 9"));
}

}  // namespace
}  // namespace ktstr::test
