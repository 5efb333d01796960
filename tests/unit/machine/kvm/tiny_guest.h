// TinyGuest: the real parts of a kvm machine, from the VM to the vCPUs' threads, with a program of a few
// instructions in place of a kernel. All vCPUs begin in 64-bit mode, with the first 4 GiB mapped one to one.
//
// It runs on any /dev/kvm, also on one that is software only and cannot run a kernel.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "host/machine/kvm/kvm_guest.h"
#include "host/machine/kvm/kvm_traps.h"
#include "host/machine/kvm/vcpu_exits.h"
#include "host/machine/kvm/vcpu_threads.h"
#include "tests/unit/machine/kvm/machine_code.h"

// Leaves the test with a message where there is no /dev/kvm that this user may open.
// KTSTR_TEST_NEEDS_KVM=1: a host without is a failure, as it is where one was made for these tests.
#define KTSTR_SKIP_OR_FAIL()                                                                            \
  if (std::getenv("KTSTR_TEST_NEEDS_KVM") != nullptr) GTEST_FAIL() << "no KVM, or not the whole of it"; \
  GTEST_SKIP()
#define NEEDS_KVM()                                                               \
  if (const std::string lacking = ktstr::kvm::tiny::no_kvm(); !lacking.empty()) { \
    KTSTR_SKIP_OR_FAIL() << lacking;                                              \
  }

namespace ktstr::kvm::tiny {

using namespace std::chrono_literals;

// Empty, or what is wrong with /dev/kvm.
std::string no_kvm();

// Where programs are, and what they may use.
inline constexpr std::uint64_t kCode = 0x100000;
inline constexpr std::uint64_t kFunction = 0x101000;
inline constexpr std::uint64_t kData = 0x110000;
inline constexpr std::uint64_t kStacks = 0x120000;  // one page each, growing down from the next one
inline constexpr std::uint64_t kTinyRam = std::uint64_t{4} << 20;

struct End {
  std::uint32_t cpu = 0;
  GuestEnd end = GuestEnd::kFailed;
  std::string detail;
};

struct Hit {
  std::uint32_t cpu = 0;
  TrapHit hit;
};

struct TinyOptions {
  std::uint32_t vcpus = 1;
  // vCPUs besides the first wait for a start-up interrupt, as the others of a PC do.
  bool wait_for_start = false;
  // The I/O APIC is ours, local APICs are in x2APIC mode.
  bool split_chip = false;
  std::uint32_t apic_id_step = 1;  // APIC ids are 0, this, twice this, ...
};

class TinyGuest {
 public:
  explicit TinyGuest(const TinyOptions& options = {});
  ~TinyGuest();

  // Puts a program, or data, into RAM.
  void put(std::uint64_t gpa, const std::vector<std::uint8_t>& bytes);
  void put(const MachineCode& code, std::uint64_t base) { put(base, code.bytes()); }
  std::uint64_t number_at(std::uint64_t gpa);
  void set_number(std::uint64_t gpa, std::uint64_t value);

  // Makes the threads; `first`, when given, sees each exit before VcpuExits does: nullopt leaves it to that.
  using FirstHandler = std::function<std::optional<VcpuThreads::Next>(Vcpu&, int error)>;
  void start(FirstHandler first = {}, const VcpuThreadOptions& options = {});
  void go() { threads->go(); }
  PauseReport hold() {
    threads->hold();
    return threads->wait_parked(10s);
  }

  // Waits for the guest's end, or for the next hit of a trap; nullopt after 20 s.
  std::optional<End> wait_end();
  std::optional<Hit> wait_hit();
  // Of vCPUs that hit while all were being held: they hit again.
  void forget_hits();
  // The end that has been told already.
  std::optional<End> ended();
  // start(), go() and wait_end(), and all vCPUs parked.
  std::optional<End> run();
  // Waits until the number at `gpa`, which the guest writes, is at least `least`; false after 20 s.
  bool wait_number(std::uint64_t gpa, std::uint64_t least);
  std::uint64_t count(std::string_view of);

  Vcpu& vcpu(std::uint32_t cpu) { return guest->vcpus[cpu]; }

  std::unique_ptr<KvmGuest> guest;
  KvmTraps traps;
  std::unique_ptr<VcpuExits> exits;
  std::unique_ptr<VcpuThreads> threads;

 private:
  void plug_in_devices();
  void make_vcpus(const TinyOptions& options);

  FirstHandler first_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<End> ends_;
  std::vector<Hit> hits_;
};

// What this process has: open descriptors, threads, mappings of a vCPU.
struct Belongings {
  std::size_t descriptors = 0, threads = 0, vcpu_mappings = 0;
  bool operator==(const Belongings&) const = default;
};
Belongings belongings();
std::ostream& operator<<(std::ostream& out, const Belongings& belongings);

}  // namespace ktstr::kvm::tiny
