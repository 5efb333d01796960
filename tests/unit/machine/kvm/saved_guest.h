// What the tests of saved guests share: programs that wait for a word, and saving and starting with a reason
// when that fails.
#pragma once

#include <string>

#include <gtest/gtest.h>

#include "common/xxh3.h"
#include "host/machine/kvm/guest_layout.h"
#include "host/machine/kvm/kvm_state.h"
#include "host/machine/kvm/state_file.h"
#include "proto/kvm_state.pb.h"
#include "tests/unit/machine/kvm/tiny_machine.h"

namespace ktstr::kvm::tiny {

// What programs and tests tell each other: a counter, and a flag that the program waits for.
inline constexpr std::uint64_t kCounter = kData;
inline constexpr std::uint64_t kFlag = kData + 8;
inline constexpr std::uint64_t kInput = kData + 16;
inline constexpr std::uint64_t kCopy = kData + 24;
// Of an interrupt, or the function that a program calls.
inline constexpr std::uint64_t kHandler = kKernel + 0x800;

// Counts until a flag is set.
inline MachineCode& wait_for_flag(MachineCode& code, std::uint64_t flag = kFlag) {
  const std::uint64_t loop = code.here();
  code.increment(kCounter).mov_rbx(flag);
  code.raw({0x48, 0x83, 0x3b, 0x00});  // cmpq $0, (%rbx)
  // jz loop
  code.raw({0x0f, 0x84});
  const auto distance = static_cast<std::uint32_t>(loop - (code.here() + 4));
  return code.raw({static_cast<std::uint8_t>(distance), static_cast<std::uint8_t>(distance >> 8),
                   static_cast<std::uint8_t>(distance >> 16), static_cast<std::uint8_t>(distance >> 24)});
}

inline BootSpec clone_spec(const TinySnapshot& snapshot, std::uint32_t cpus = 1) {
  // Another kernel, which a clone must not look at.
  BootSpec spec = tiny_spec(MachineCode(kKernel).ud2(), cpus);
  spec.snapshot = snapshot.files();
  return spec;
}

inline testing::AssertionResult save(TinyMachine& machine, const TinySnapshot& to) {
  if (!machine.pause()) return testing::AssertionFailure() << "cannot be paused";
  const auto saved = machine->save(to.files());
  if (!saved) return testing::AssertionFailure() << saved.error().to_string();
  return testing::AssertionSuccess();
}

inline testing::AssertionResult starts(TinyMachine& machine) {
  const auto started = machine->start();
  if (!started) return testing::AssertionFailure() << started.error().to_string();
  return testing::AssertionSuccess();
}

inline v1::KvmState state_of(const TinySnapshot& snapshot) {
  v1::KvmState state;
  const auto read = read_kvm_state(snapshot.state.get(), state);
  EXPECT_TRUE(read) << read.error().to_string();
  return state;
}

inline std::string hash(const UniqueFd& file) {
  struct stat st {};
  if (fstat(file.get(), &st) != 0) return "";
  return Xxh3::hex_of_file(file.get(), static_cast<std::uint64_t>(st.st_size)).value();
}

class SavedGuestTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string lacking = no_kvm(); !lacking.empty()) GTEST_SKIP() << lacking;
  }
  TinySnapshot snapshot_;
};

}  // namespace ktstr::kvm::tiny
