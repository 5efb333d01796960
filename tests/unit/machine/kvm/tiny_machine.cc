#include "tests/unit/machine/kvm/tiny_machine.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "tests/unit/machine/kvm/temp_file.h"

namespace ktstr::kvm::tiny {
namespace {

constexpr auto kPatience = 20s;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

UniqueFd tiny_kernel(const MachineCode& code) {
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_machine = EM_X86_64;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  header.e_phoff = sizeof(header);
  header.e_entry = kKernel;
  Elf64_Phdr segment = {};
  segment.p_type = PT_LOAD;
  segment.p_offset = 4096;
  segment.p_paddr = kKernel;
  segment.p_filesz = segment.p_memsz = 4096;
  std::vector<std::uint8_t> bytes(8192);
  put_value(bytes, 0, header);
  put_value(bytes, sizeof(header), segment);
  if (code.bytes().size() > 4096) throw std::runtime_error("the program is longer than its segment");
  std::ranges::copy(code.bytes(), bytes.begin() + 4096);
  return file_of(bytes);
}

BootSpec tiny_spec(const MachineCode& code, std::uint32_t cpus) {
  BootSpec spec;
  spec.kernel = tiny_kernel(code);
  spec.kernel_is_elf = true;
  spec.memory_bytes = kKernelMemory;
  spec.topology.cores_per_llc = cpus;
  return spec;
}

TinyMachine::TinyMachine(BootSpec spec, const KvmMachineOptions& options)
    : machine_(loop_, std::move(spec), options) {
  machine_.set_console_receiver([this](ConsolePort port, std::span<const std::byte> bytes) {
    (port == ConsolePort::kSerial ? serial : hvc) += text_of(bytes);
  });
  machine_.frames().set_receiver([this](std::span<const std::byte> bytes) { frames += text_of(bytes); });
  machine_.set_event_receiver([this](const MachineEvent& event) { events.push_back(event); });
}

bool TinyMachine::run_until(const std::function<bool()>& done) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > until) return false;
    if (loop_.stopped()) loop_.restart();
    loop_.run_one_for(10ms);
  }
  return true;
}

bool TinyMachine::run_to_event(MachineEvent::Kind kind) {
  return run_until([this] { return !events.empty(); }) && events.back().kind == kind;
}

bool TinyMachine::pause() {
  const auto paused = machine_.pause(10s);
  return paused && paused->missing.empty();
}

std::byte* TinyMachine::at(std::uint64_t gpa, std::uint64_t size) {
  for (const RamRegion& region : machine_.ram())
    if (gpa >= region.gpa && gpa + size <= region.gpa + region.host.size())
      return region.host.data() + (gpa - region.gpa);
  throw std::runtime_error("no RAM there");
}

std::uint64_t TinyMachine::number_at(std::uint64_t gpa) {
  return __atomic_load_n(reinterpret_cast<std::uint64_t*>(at(gpa, 8)), __ATOMIC_ACQUIRE);
}

void TinyMachine::set_number(std::uint64_t gpa, std::uint64_t value) {
  __atomic_store_n(reinterpret_cast<std::uint64_t*>(at(gpa, 8)), value, __ATOMIC_RELEASE);
}

void TinyMachine::put(std::uint64_t gpa, const std::vector<std::uint8_t>& bytes) {
  std::memcpy(at(gpa, bytes.size()), bytes.data(), bytes.size());
}

bool TinyMachine::wait_number(std::uint64_t gpa, std::uint64_t least) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (number_at(gpa) < least) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

TinySnapshot::TinySnapshot()
    : ram(memfd_create("ram", MFD_CLOEXEC)), state(memfd_create("state", MFD_CLOEXEC)) {}

SnapshotFiles TinySnapshot::files() const {
  return {.ram = UniqueFd(fcntl(ram.get(), F_DUPFD_CLOEXEC, 0)),
          .state = UniqueFd(fcntl(state.get(), F_DUPFD_CLOEXEC, 0))};
}

}  // namespace ktstr::kvm::tiny
