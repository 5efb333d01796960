// TinyMachine: a whole KvmMachine on a loop of its own, with a program of a few instructions as its kernel.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "common/unique_fd.h"
#include "host/machine/kvm/kvm_machine.h"
#include "tests/unit/machine/kvm/machine_code.h"
#include "tests/unit/machine/kvm/tiny_guest.h"

namespace ktstr::kvm::tiny {

// Where the kernel is loaded and entered, and the memory of its machine. The kernel may also use what
// TinyGuest's programs use.
inline constexpr std::uint64_t kKernel = std::uint64_t{16} << 20;
inline constexpr std::uint64_t kKernelMemory = std::uint64_t{64} << 20;

// An ELF file with a program for kKernel, in memory.
UniqueFd tiny_kernel(const MachineCode& code);
BootSpec tiny_spec(const MachineCode& code, std::uint32_t cpus = 1);

class TinyMachine {
 public:
  explicit TinyMachine(BootSpec spec, const KvmMachineOptions& options = {});

  KvmMachine& operator*() { return machine_; }
  KvmMachine* operator->() { return &machine_; }

  // Runs the loop until `done` or 20 s have passed; whether it was done.
  bool run_until(const std::function<bool()>& done);
  bool run_to_event(MachineEvent::Kind kind);
  // Pauses with all vCPUs parked.
  bool pause();

  // Memory by guest-physical address, as long as the machine is not stopped.
  std::uint64_t number_at(std::uint64_t gpa);
  void set_number(std::uint64_t gpa, std::uint64_t value);
  void put(std::uint64_t gpa, const std::vector<std::uint8_t>& bytes);
  // Without running the loop: nobody serves devices meanwhile. False after 20 s.
  bool wait_number(std::uint64_t gpa, std::uint64_t least);

  std::string serial, hvc, frames;
  std::vector<MachineEvent> events;

 private:
  std::byte* at(std::uint64_t gpa, std::uint64_t size);

  boost::asio::io_context loop_;
  KvmMachine machine_;
};

// A snapshot in memory, for as many machines as one likes.
struct TinySnapshot {
  UniqueFd ram, state;
  TinySnapshot();
  // Other descriptors of the same files.
  SnapshotFiles files() const;
};

}  // namespace ktstr::kvm::tiny
