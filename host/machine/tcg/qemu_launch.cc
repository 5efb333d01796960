#include "host/machine/tcg/qemu_launch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <utility>

#include "host/machine/host_resources.h"
#include "host/machine/tcg/qemu_command.h"

namespace ktstr {
namespace {

// QEMU retries a console byte that found its pipe full when its main loop gets to it, which the guest can
// tell by the time its UART takes. So there is room for everything a guest writes while we are not looking.
// (The debug port just waits.) 1 MiB is what the kernel allows everybody (/proc/sys/fs/pipe-max-size).
constexpr int kDeterministicPipe = 1 << 20;

struct Ends {
  UniqueFd ours;
  UniqueFd theirs;
};

Expected<Ends> make_socket_pair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno(ErrorCode::kHost, "cannot create a socket pair");
  }
  return Ends{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// `size`: wanted capacity in bytes, 0 for the system's own.
Expected<Ends> make_pipe(int size) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail_errno(ErrorCode::kHost, "cannot create a pipe");
  // Refused where the user's share of pipe memory is used up (/proc/sys/fs/pipe-user-pages-soft): then it is
  // smaller.
  if (size > 0) static_cast<void>(fcntl(ends[1], F_SETPIPE_SZ, size));
  return Ends{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace

Expected<LaunchedQemu> launch_qemu(const BootSpec& spec, const std::vector<std::string>& argv) {
  if (auto enough = check_host_memory(spec.memory_bytes, host_memory()); !enough) {
    return std::unexpected(std::move(enough.error()));
  }
  auto sizes = node_memory(spec.topology, spec.memory_bytes);
  if (!sizes) return std::unexpected(std::move(sizes.error()));
  std::optional<GuestMemoryFiles> memory;
  UniqueFd state;
  if (!spec.snapshot) {
    auto made = GuestMemoryFiles::create(*std::move(sizes));
    if (!made) return std::unexpected(std::move(made.error()));
    memory = *std::move(made);
    state.reset(memfd_create("ktstr-guest-state", MFD_CLOEXEC));
    if (!state) return fail_errno(ErrorCode::kHost, "cannot create a memory file for the guest's state");
  }

  const bool deterministic = spec.deterministic.has_value();
  auto qmp = make_socket_pair();
  auto gdb = make_socket_pair();
  auto serial = make_pipe(deterministic ? kDeterministicPipe : 0);
  auto hvc = make_socket_pair();
  auto frames = deterministic ? make_pipe(kDeterministicPipe) : make_socket_pair();
  for (auto* ends : {&qmp, &gdb, &serial, &hvc, &frames}) {
    if (!*ends) return std::unexpected(std::move(ends->error()));
  }
  std::vector<InheritedFd> fds = {
      {qmp->theirs.get(), QemuFd::kQmp},       {gdb->theirs.get(), QemuFd::kGdb},
      {serial->theirs.get(), QemuFd::kSerial}, {hvc->theirs.get(), QemuFd::kHvc},
      {frames->theirs.get(), QemuFd::kFrames}, {spec.kernel.get(), QemuFd::kKernel},
  };
  if (spec.initramfs) fds.push_back({spec.initramfs.get(), QemuFd::kInitramfs});
  fds.push_back({spec.snapshot ? spec.snapshot->state.get() : state.get(), QemuFd::kState});
  int next = QemuFd::kFirstMemory;
  if (spec.snapshot) {
    fds.push_back({spec.snapshot->ram.get(), next});
  } else {
    for (const UniqueFd& file : memory->files()) fds.push_back({file.get(), next++});
  }

  // Of its translations a clone has a few MiB; in huge pages they would be more (docs/snapshots.md).
  auto child = ChildProcess::spawn(argv, fds, /*huge_pages=*/!spec.snapshot);
  if (!child) return std::unexpected(std::move(child.error()));
  // QEMU's ends are closed here, when `theirs` goes: otherwise a dead QEMU's sockets would never end.
  return LaunchedQemu{.child = std::move(*child),
                      .memory = std::move(memory),
                      .state = std::move(state),
                      .qmp = std::move(qmp->ours),
                      .gdb = std::move(gdb->ours),
                      .serial = std::move(serial->ours),
                      .hvc = std::move(hvc->ours),
                      .frames = std::move(frames->ours)};
}

}  // namespace ktstr
