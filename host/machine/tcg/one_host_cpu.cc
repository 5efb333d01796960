#include "host/machine/tcg/one_host_cpu.h"

#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/core.h>

namespace ktstr {
namespace {

// The kernel refuses a mask that is smaller than its own (sched_setaffinity(2)); this is larger than any.
constexpr std::size_t kMaxCpus = 8192;
struct Mask {
  Mask() { CPU_ZERO_S(sizeof(bits), first()); }
  cpu_set_t* first() { return bits; }
  cpu_set_t bits[kMaxCpus / CPU_SETSIZE];
};

Expected<std::vector<std::uint32_t>> usable_cpus() {
  Mask mask;
  if (sched_getaffinity(0, sizeof(mask.bits), mask.first()) != 0)
    return fail_errno(ErrorCode::kHost, "cannot find out which CPUs there are");
  std::vector<std::uint32_t> cpus;
  for (std::uint32_t cpu = 0; cpu < kMaxCpus; ++cpu)
    if (CPU_ISSET_S(cpu, sizeof(mask.bits), mask.first())) cpus.push_back(cpu);
  if (cpus.empty()) return fail(ErrorCode::kHost, "there is no CPU that this process may use");
  // The first ones take most of a host's interrupts.
  std::reverse(cpus.begin(), cpus.end());
  return cpus;
}

// A name in the abstract namespace (unix(7)) can be had once, needs no file, and goes when its socket is
// closed.
UniqueFd take_name(std::uint32_t cpu) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return {};
  const std::string name = fmt::format("ktstr-vm/{}/deterministic/cpu{}", getuid(), cpu);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), std::min(name.size(), sizeof(address.sun_path) - 1));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) return {};
  return socket;
}

// Without a right to it, it stays as it is.
void set_priority(pid_t thread, bool first) {
  const sched_param param = {.sched_priority = first ? 1 : 0};
  // A thread that the main thread makes is no main thread.
  static_cast<void>(
      sched_setscheduler(thread, first ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_BATCH, &param));
}

}  // namespace

Expected<OneHostCpu> OneHostCpu::take() {
  const auto cpus = usable_cpus();
  if (!cpus) return std::unexpected(cpus.error());
  OneHostCpu taken;
  for (const std::uint32_t cpu : *cpus) {
    taken.lease_ = take_name(cpu);
    if (!taken.lease_) continue;
    taken.cpu_ = cpu;
    return taken;
  }
  taken.cpu_ = (*cpus)[static_cast<std::size_t>(getpid()) % cpus->size()];
  return taken;
}

Expected<void> OneHostCpu::confine(pid_t process) const {
  Mask mask;
  CPU_SET_S(cpu_, sizeof(mask.bits), mask.first());
  std::error_code error;
  const std::filesystem::directory_iterator threads(fmt::format("/proc/{}/task", process), error);
  if (error)
    return fail(ErrorCode::kHost,
                fmt::format("cannot list the threads of process {}: {}", process, error.message()));
  for (const auto& thread : threads) {
    const auto id = static_cast<pid_t>(std::strtol(thread.path().filename().c_str(), nullptr, 10));
    // One that has just ended needs no CPU.
    if (sched_setaffinity(id, sizeof(mask.bits), mask.first()) != 0 && errno != ESRCH)
      return fail_errno(ErrorCode::kHost, fmt::format("cannot keep the emulator on CPU {}", cpu_));
    set_priority(id, id == process);
  }
  return {};
}

}  // namespace ktstr
