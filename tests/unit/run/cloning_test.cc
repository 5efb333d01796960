#include "host/run/cloning.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "host/run/snapshot_inputs.h"
#include "tests/unit/snapshot/sample_snapshot.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

// A machine that can be stopped and saved.
class StillMachine : public Machine, private FrameLink {
 public:
  std::vector<std::string> calls;
  bool can_pause = true, can_save = true, can_resume = true;

  std::string_view kind() const override { return "still"; }
  const KernelCommandLine& command_line() const override { return command_line_; }
  Emulator emulator() const override { return {}; }
  std::vector<std::string> warnings() const override { return {}; }
  void set_console_receiver(ConsoleReceiver) override {}
  void set_event_receiver(EventReceiver) override {}
  FrameLink& frames() override { return *this; }
  Expected<void> start() override { return {}; }
  Expected<PauseReport> pause(std::chrono::nanoseconds) override {
    calls.emplace_back("pause");
    if (!can_pause) return fail(ErrorCode::kHost, "it does not stop");
    return PauseReport{};
  }
  Expected<void> resume() override {
    calls.emplace_back("resume");
    if (!can_resume) return fail(ErrorCode::kHost, "it does not go on");
    return {};
  }
  Expected<std::string> save(const SnapshotFiles& files) override {
    calls.emplace_back("save");
    if (!can_save) return fail(ErrorCode::kHost, "no space left");
    SparseWriter ram(files.ram.get());
    EXPECT_TRUE(ram.append(test::sample_ram()));
    EXPECT_EQ(::pwrite(files.state.get(), "state", 5, 0), 5);
    return ram.finish()->checksum;
  }
  Expected<void> set_traps(std::vector<std::uint64_t>) override { return {}; }
  void stop() override {}
  std::vector<RamRegion> ram() const override { return {}; }
  Expected<VcpuRegisters> registers(std::uint32_t) override { return VcpuRegisters{}; }
  VcpuTime vcpu_time() const override { return {}; }

 private:
  void set_receiver(Receiver) override {}
  Expected<void> send(std::string_view) override { return {}; }
  bool can_send() const override { return true; }
  std::string_view guest_address() const override { return "none"; }
  KernelCommandLine command_line_;
};

class CloningTest : public ::testing::Test {
 protected:
  CloningTest() {
    std::string path = (fs::temp_directory_path() / "ktstr-cloning-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) ::abort();
    folder_ = path;
  }
  ~CloningTest() override { fs::remove_all(folder_); }

  SnapshotCache cache() const { return SnapshotCache(folder_ + "/snapshots"); }
  Expected<Cloning> decide(bool scheduler, bool always = false,
                           SnapshotInputs inputs = test::sample_inputs()) const {
    return Cloning::decide({.always = always, .scheduler = scheduler, .kaslr = kaslr_}, std::move(inputs),
                           cache());
  }
  static Cloning::Guest guest() {
    Cloning::Guest guest;
    guest.facts.set_kernel_release("6.12.1-test");
    guest.facts.set_text_kva(0xffffffff83000000);
    guest.monotonic_ns = 5'000'000'000;
    guest.run_id = "20261121T140500Z-1a2b3c";
    return guest;
  }

  std::string folder_;
  StillMachine machine_;
  bool kaslr_ = false;
};

TEST_F(CloningTest, WhatWasKeptIsGoneOnFrom) {
  auto first = decide(false);
  ASSERT_TRUE(first);
  EXPECT_FALSE(first->is_clone());
  EXPECT_FALSE(first->record().booted_because().empty());
  EXPECT_FALSE(first->keeps(SnapshotPoint::kAttached));
  ASSERT_TRUE(first->keeps(SnapshotPoint::kHello));
  ASSERT_TRUE(first->save(SnapshotPoint::kHello, machine_, guest()));
  EXPECT_EQ(machine_.calls, (std::vector<std::string>{"pause", "save", "resume"}));
  EXPECT_FALSE(first->keeps(SnapshotPoint::kHello));
  EXPECT_GT(first->stood_still().count(), 0);
  ASSERT_EQ(first->record().saved_size(), 1);
  EXPECT_EQ(first->record().saved(0).failed(), "");
  EXPECT_TRUE(first->warnings().empty());

  auto second = decide(false);
  ASSERT_TRUE(second);
  ASSERT_TRUE(second->is_clone());
  EXPECT_EQ(second->facts().kernel_release(), "6.12.1-test");
  EXPECT_EQ(second->record().snapshot(), first->record().saved(0).key());
  EXPECT_EQ(second->record().point(), "hello");
  EXPECT_EQ(second->record().made_by(), "20261121T140500Z-1a2b3c");
  EXPECT_EQ(second->record().inherited(), "");
  EXPECT_EQ(second->record().booted_because(), "");
  const auto files = second->files();
  ASSERT_TRUE(files);
  EXPECT_EQ(::lseek(files->ram.get(), 0, SEEK_END), static_cast<off_t>(test::kSampleRam));
}

TEST_F(CloningTest, TheAttachedGuestComesFirst) {
  auto booted = decide(true);
  ASSERT_TRUE(booted && booted->keeps(SnapshotPoint::kHello) && booted->keeps(SnapshotPoint::kAttached));
  ASSERT_TRUE(booted->save(SnapshotPoint::kHello, machine_, guest()));
  ASSERT_TRUE(booted->save(SnapshotPoint::kAttached, machine_, guest()));
  auto clone = decide(true);
  ASSERT_TRUE(clone && clone->is_clone());
  EXPECT_EQ(clone->point(), SnapshotPoint::kAttached);
  // Another scheduler shares only the guest that waits for its plan.
  SnapshotInputs other = test::sample_inputs();
  other.scheduler_arguments = {"--other"};
  clone = decide(true, false, other);
  ASSERT_TRUE(clone && clone->is_clone());
  EXPECT_EQ(clone->point(), SnapshotPoint::kHello);
}

TEST_F(CloningTest, ASchedulerThatIsRunAgainIsBootedOnceToBeKept) {
  ASSERT_TRUE(decide(false)->save(SnapshotPoint::kHello, machine_, guest()));
  auto first = decide(true);
  ASSERT_TRUE(first && first->is_clone());
  EXPECT_FALSE(first->keeps(SnapshotPoint::kAttached));  // a clone is not saved
  auto second = decide(true);
  ASSERT_TRUE(second);
  EXPECT_FALSE(second->is_clone());
  EXPECT_FALSE(second->keeps(SnapshotPoint::kHello));
  ASSERT_TRUE(second->keeps(SnapshotPoint::kAttached));
  ASSERT_TRUE(second->save(SnapshotPoint::kAttached, machine_, guest()));
  EXPECT_EQ(decide(true)->point(), SnapshotPoint::kAttached);
}

TEST_F(CloningTest, AlwaysNamesWhatDiffers) {
  auto none = decide(false, true);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), ErrorCode::kHost);
  ASSERT_TRUE(decide(false)->save(SnapshotPoint::kHello, machine_, guest()));
  SnapshotInputs other = test::sample_inputs();
  other.kernel = "another";
  none = decide(false, true, other);
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().to_string().find("differs in: kernel"), std::string::npos)
      << none.error().to_string();
  // With a scheduler the guest that waits for its plan will do, each time.
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(decide(true, true)->is_clone());
}

TEST_F(CloningTest, AGuestThatCannotBeKeptGoesOn) {
  machine_.can_save = false;
  auto cloning = decide(false);
  ASSERT_TRUE(cloning->save(SnapshotPoint::kHello, machine_, guest()));
  EXPECT_EQ(machine_.calls.back(), "resume");
  EXPECT_NE(cloning->record().saved(0).failed(), "");
  EXPECT_EQ(cloning->warnings().size(), 1U);
  EXPECT_FALSE(decide(false)->is_clone());

  machine_ = {};
  machine_.can_pause = false;
  cloning = decide(false);
  ASSERT_TRUE(cloning->save(SnapshotPoint::kHello, machine_, guest()));
  EXPECT_EQ(machine_.calls, (std::vector<std::string>{"pause", "resume"}));
  EXPECT_EQ(cloning->warnings().size(), 1U);

  machine_ = {};
  machine_.can_resume = false;
  EXPECT_FALSE(decide(false)->save(SnapshotPoint::kHello, machine_, guest()));
}

TEST_F(CloningTest, ACacheThatCannotBeWrittenIsSaidOnce) {
  std::ofstream(folder_ + "/snapshots") << "a file";
  auto cloning = decide(true);
  ASSERT_TRUE(cloning);
  EXPECT_FALSE(cloning->is_clone());
  EXPECT_FALSE(cloning->keeps(SnapshotPoint::kHello) || cloning->keeps(SnapshotPoint::kAttached));
  EXPECT_EQ(cloning->warnings().size(), 1U);
  EXPECT_EQ(decide(true, true).error().code(), ErrorCode::kHost);
}

TEST_F(CloningTest, WhatCannotBeKeptOnceIsNotTriedAgain) {
  auto cloning = decide(true);
  ASSERT_TRUE(cloning->keeps(SnapshotPoint::kAttached));
  std::ofstream(folder_ + "/snapshots") << "a file";
  ASSERT_TRUE(cloning->save(SnapshotPoint::kHello, machine_, guest()));
  EXPECT_TRUE(machine_.calls.empty());  // not even stopped
  EXPECT_FALSE(cloning->keeps(SnapshotPoint::kAttached));
  EXPECT_EQ(cloning->warnings().size(), 1U);
}

TEST_F(CloningTest, ADamagedSnapshotIsThrownAwayAndSaid) {
  ASSERT_TRUE(decide(false)->save(SnapshotPoint::kHello, machine_, guest()));
  SnapshotInputs inputs = test::sample_inputs();
  inputs.point = SnapshotPoint::kHello;
  test::flip_byte(folder_ + "/snapshots/" + snapshot_key(inputs) + "/state", 2);
  auto cloning = decide(false);
  ASSERT_TRUE(cloning);
  EXPECT_FALSE(cloning->is_clone());
  ASSERT_EQ(cloning->warnings().size(), 1U);
  EXPECT_TRUE(cloning->keeps(SnapshotPoint::kHello));
}

TEST_F(CloningTest, WhatIsOfNoUseIsNotTriedAgain) {
  ASSERT_TRUE(decide(false)->save(SnapshotPoint::kHello, machine_, guest()));
  auto cloning = decide(false);
  ASSERT_TRUE(cloning->is_clone());
  cloning->give_up("it does not start", true);
  EXPECT_FALSE(cloning->is_clone());
  EXPECT_FALSE(cloning->keeps(SnapshotPoint::kHello));
  EXPECT_NE(cloning->record().booted_because().find("it does not start"), std::string::npos);
  EXPECT_EQ(cloning->warnings().size(), 1U);
  EXPECT_FALSE(decide(false)->is_clone());
}

TEST_F(CloningTest, TheKernelsAddressIsInherited) {
  kaslr_ = true;
  ASSERT_TRUE(decide(false)->save(SnapshotPoint::kHello, machine_, guest()));
  const auto cloning = decide(false);
  EXPECT_NE(cloning->record().inherited().find("0x2000000"), std::string::npos)
      << cloning->record().inherited();
}

TEST_F(CloningTest, KeysThatWereAskedForAreRemembered) {
  const AskedKeys keys(folder_ + "/asked");
  EXPECT_FALSE(keys.ask("0011"));
  EXPECT_FALSE(keys.ask("0022"));
  EXPECT_TRUE(keys.ask("0011"));
  for (int i = 0; i < 20'000; ++i) static_cast<void>(keys.ask(std::to_string(1'000'000 + i)));
  EXPECT_LE(fs::file_size(folder_ + "/asked"), 65536U);
  EXPECT_FALSE(AskedKeys("/proc/nothing").ask("0011"));
  EXPECT_FALSE(AskedKeys("/proc/nothing").ask("0011"));
}

TEST(LastingCommandLine, OurMeasurementIsLeftOutAndTheUsersIsNot) {
  KernelCommandLine line;
  line.own = {{"panic=-1", ""}, {"lpj=9200003", ""}};
  line.text = "panic=-1 lpj=9200003 nokaslr";
  EXPECT_EQ(lasting_command_line(line), "panic=-1 nokaslr");
  line.text = "lpj=9200003";
  EXPECT_EQ(lasting_command_line(line), "");
  line.own.pop_back();
  line.text = "panic=-1 nokaslr lpj=5";
  EXPECT_EQ(lasting_command_line(line), line.text);
}

}  // namespace
}  // namespace ktstr
