#include "host/machine/tcg/one_host_cpu.h"

#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "host/machine/host_cpus.h"

namespace ktstr {
namespace {

// A name in the abstract namespace (unix(7)) can be had once, needs no file, and goes when its socket is
// closed.
UniqueFd take_name(std::uint32_t cpu) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return {};
  const std::string name = fmt::format("ktstr-vm/{}/deterministic/cpu{}", getuid(), cpu);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::size_t length = name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
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
  const auto allowed = affinity_of_this_process();
  if (!allowed) return std::unexpected(allowed.error());
  if (allowed->empty()) return fail(ErrorCode::kHost, "there is no CPU that this process may use");
  // The first ones take most of a host's interrupts.
  const std::vector<std::uint32_t> cpus(allowed->cpus().rbegin(), allowed->cpus().rend());
  OneHostCpu taken;
  for (const std::uint32_t cpu : cpus) {
    taken.lease_ = take_name(cpu);
    if (!taken.lease_) continue;
    taken.cpu_ = cpu;
    return taken;
  }
  taken.cpu_ = cpus[static_cast<std::size_t>(getpid()) % cpus.size()];
  return taken;
}

Expected<void> OneHostCpu::confine(pid_t process) const {
  cpu_set_t mask[CpuSet::kMaxCpus / CPU_SETSIZE] = {};
  CPU_SET_S(cpu_, sizeof(mask), mask);
  std::error_code error;
  const std::filesystem::directory_iterator threads(fmt::format("/proc/{}/task", process), error);
  if (error)
    return fail(ErrorCode::kHost,
                fmt::format("cannot list the threads of process {}: {}", process, error.message()));
  for (const auto& thread : threads) {
    const auto id = static_cast<pid_t>(std::strtol(thread.path().filename().c_str(), nullptr, 10));
    // One that has just ended needs no CPU.
    if (sched_setaffinity(id, sizeof(mask), mask) != 0 && errno != ESRCH)
      return fail_errno(ErrorCode::kHost, fmt::format("cannot keep the emulator on CPU {}", cpu_));
    set_priority(id, id == process);
  }
  return {};
}

}  // namespace ktstr
