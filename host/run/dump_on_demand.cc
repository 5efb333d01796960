#include "host/run/dump_on_demand.h"

#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/unique_fd.h"
#include "common/utc_time.h"
#include "host/inspect/scx/scx_dumper.h"
#include "host/memory/core_file.h"
#include "host/report/dump/dump_file.h"
#include "host/run/core_registers.h"
#include "host/run/run_owner.h"

namespace ktstr {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// A guest whose vCPUs do not stop makes the run give up after 5 s; a large guest takes a second to render.
constexpr auto kRunLimit = 60s;
constexpr unsigned kMaxDumps = 1'000'000;

std::string dump_path(const std::filesystem::path& folder, unsigned number) {
  return (folder / fmt::format("dump-{}.txt", number)).string();
}

unsigned first_free(const std::filesystem::path& folder) {
  std::error_code ignored;
  unsigned number = 1;
  while (number < kMaxDumps && (std::filesystem::exists(dump_path(folder, number), ignored) ||
                                std::filesystem::exists(folder / fmt::format("dump-{}.pb", number), ignored)))
    ++number;
  return number;
}

// ---------------------------------------------------------------------------------------------------------------------
// A run in progress

// Waits until `path` exists: its folder is watched before it is looked at, so that nothing is missed.
Expected<void> wait_for(const std::filesystem::path& path, const RunOwner& owner) {
  const UniqueFd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch || ::inotify_add_watch(watch.get(), path.parent_path().c_str(), IN_MOVED_TO | IN_CREATE) < 0)
    return fail_errno(ErrorCode::kHost, "cannot watch " + quote(path.parent_path().string()));
  const auto deadline = Clock::now() + kRunLimit;
  std::error_code ignored;
  while (!std::filesystem::exists(path, ignored)) {
    if (Clock::now() >= deadline)
      return fail(ErrorCode::kHost,
                  fmt::format("process {} wrote no dump within {} s; its own output says why", owner.pid,
                              kRunLimit.count()));
    if (!is_alive(owner))
      return fail(ErrorCode::kUsage,
                  fmt::format("the run ended before it took the dump (process {})", owner.pid));
    pollfd ready{watch.get(), POLLIN, 0};
    ::poll(&ready, 1, 200);
    char events[4096];
    while (::read(watch.get(), events, sizeof events) > 0) {
    }
  }
  return {};
}

// ---------------------------------------------------------------------------------------------------------------------
// A memory image

Expected<std::optional<Vmcoreinfo>> vmcoreinfo_of(const CoreFile& core, const KernelImage& image) {
  if (core.vmcoreinfo().empty()) return std::nullopt;
  auto info = parse_vmcoreinfo(std::as_bytes(std::span(core.vmcoreinfo())));
  if (!info) return std::unexpected(std::move(info.error()));
  if (!info->build_id.empty() && !image.build_id().empty() && info->build_id != image.build_id()) {
    return fail(
        ErrorCode::kUsage,
        fmt::format(
            "the memory image is of another kernel than {}: it says {} (build id {}), the image is {} "
            "(build id {})",
            quote(image.image_path()), info->os_release, info->build_id, image.release(), image.build_id()));
  }
  return std::optional(std::move(*info));
}

}  // namespace

Expected<std::string> dump_of_run(const std::string& folder) {
  auto owner = read_run_owner(folder);
  if (!owner) return std::unexpected(std::move(owner.error()));
  if (!is_alive(*owner))
    return fail(ErrorCode::kUsage,
                fmt::format("the run in {} is over; its dumps, if it took any, are there", quote(folder)));
  // The run numbers its dumps itself; one that it takes by itself at the same moment will do as well.
  std::string next = dump_path(folder, first_free(folder));
  if (::kill(owner->pid, SIGUSR1) != 0)
    return fail_errno(ErrorCode::kHost, fmt::format("cannot signal process {}", owner->pid));
  if (auto waited = wait_for(next, *owner); !waited) return std::unexpected(std::move(waited.error()));
  return next;
}

Expected<std::string> dump_of_memory(const std::string& path, const RunRequest& run) {
  const std::string kernel = run.kernel.empty() ? run.vmlinux : run.kernel;
  if (kernel.empty())
    return fail(ErrorCode::kUsage,
                "--memory needs the kernel that ran in it: --kernel IMAGE or --vmlinux FILE");
  auto core = CoreFile::open(path);
  if (!core) return std::unexpected(std::move(core.error()));
  auto image = KernelImage::open(kernel);
  if (!image) return std::unexpected(std::move(image.error()));
  auto info = vmcoreinfo_of(*core, *image);
  if (!info) return std::unexpected(std::move(info.error()));
  std::vector<std::optional<VcpuRegisters>> registers;
  for (const VcpuRegistersOfCore& one : core->vcpus()) registers.emplace_back(from_core(one));
  // kdump leaves CPUs out that were offline, so their number is no bound.
  const auto cpus = core->kind() == CoreFile::Kind::kQemu && !registers.empty()
                        ? static_cast<std::uint32_t>(registers.size())
                        : GuestKernel::kMaxCpus;
  auto dumper =
      ScxDumper::create(*image, {run.kernel.empty() ? std::string() : run.vmlinux, run.system_map}, cpus);
  if (!dumper) return std::unexpected(std::move(dumper.error()));
  const StoppedGuest guest{core->memory(), registers, *info ? &**info : nullptr, std::nullopt};
  if (auto located = (*dumper)->locate(guest); !located)
    return propagate(std::move(located.error()), "looking for the kernel in " + quote(path));
  auto captured = (*dumper)->capture(guest, Kva());
  if (!captured) return std::unexpected(std::move(captured.error()));
  auto dump = (*dumper)->inspect(*captured);
  dump.mutable_header()->set_reason("memory image");
  dump.mutable_header()->set_taken_at(rfc3339_now());
  dump.mutable_header()->set_ktstr_vm_version(run.version);
  const std::string folder = run.out.empty() ? "." : run.out;
  auto written = write_dump(folder, first_free(folder), dump);
  if (!written) return std::unexpected(std::move(written.error()));
  return written->text;
}

}  // namespace ktstr
