// Measures the kvm machine by itself: what a boot costs in exits to this process, and how fast the vCPUs of a
// guest that keeps all of them busy stop. Wants a real /dev/kvm: scripts/nested-kvm where the host has none.
//
//   vmm-bench KERNEL VCPUS FREEZES [KERNEL-ARGUMENT...]
//
// KERNEL as for ktstr-vm --kernel. Prints one line of JSON: exits by device from the first KVM_RUN to PID 1's
// first line, bytes on the console until then, and the time of each freeze in ns.
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <boost/asio/io_context.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "host/boot/initramfs.h"
#include "host/kernel/kernel_image.h"
#include "host/machine/create.h"

namespace ktstr {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMostVcpus = 64;
constexpr std::uint32_t kMostFreezes = 100000;
constexpr auto kBootLimit = 240s;
constexpr auto kFreezeLimit = 10s;
// Between two freezes the guest runs for some ms, never the same number twice in a row.
constexpr auto kShortestRun = 2ms;
constexpr int kRunLengths = 7;

std::optional<std::uint32_t> number(std::string_view text, std::uint32_t most) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > most) return std::nullopt;
  return value;
}

// Beside this program.
std::string spin_init() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).replace_filename("spin-init").string();
}

Expected<BootSpec> boot_spec(const KernelImage& kernel, std::uint32_t vcpus, const std::string& arguments) {
  InitramfsBuilder builder;
  if (auto added = builder.add_file("/init", spin_init(), 0755); !added)
    return std::unexpected(std::move(added.error()));
  auto initramfs = builder.build(InitramfsCompression::kNone);
  if (!initramfs) return std::unexpected(std::move(initramfs.error()));
  auto payload = kernel.payload_fd();
  if (!payload) return std::unexpected(std::move(payload.error()));
  BootSpec spec;
  spec.kernel = std::move(*payload);
  spec.kernel_is_elf = true;
  spec.initramfs = std::move(initramfs->memfd);
  spec.initramfs_size = initramfs->size;
  spec.command_line = fmt::format("nokaslr ktstr_spin={}{}", vcpus, arguments);
  spec.memory_bytes = std::uint64_t{512} << 20;
  spec.topology = {.numa_nodes = 1, .llcs = 1, .cores_per_llc = vcpus, .threads_per_core = 1};
  spec.kernel_hz = kernel.config().hz();
  return spec;
}

class Bench {
 public:
  explicit Bench(BootSpec spec) : spec_(std::move(spec)) {}

  Expected<nlohmann::json> run(std::uint32_t freezes) {
    auto machine = create_machine(AccelChoice::kKvm, loop_, std::move(spec_), {});
    if (!machine) return std::unexpected(std::move(machine.error()));
    machine_ = std::move(*machine);
    machine_->set_console_receiver([this](ConsolePort, std::span<const std::byte> bytes) {
      console_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    machine_->set_event_receiver([this](const MachineEvent& event) { end_ = event.detail; });
    if (auto started = machine_->start(); !started) return std::unexpected(std::move(started.error()));
    const auto limit = Clock::now() + kBootLimit;
    while (console_.find("\nSPINNING") == std::string::npos) {
      if (end_) return fail(ErrorCode::kHost, "the guest ended: " + *end_ + "\n" + console_);
      if (Clock::now() >= limit) return fail(ErrorCode::kHost, "the guest does not come up:\n" + console_);
      loop_.run_one_until(limit);
    }
    nlohmann::json result = {{"console", console_.size()}, {"exits", nlohmann::json::object()}};
    for (const auto& counter : machine_->statistics().exits) result["exits"][counter.name] = counter.value;
    if (auto frozen = freeze(freezes, result["freezes_ns"]); !frozen)
      return std::unexpected(std::move(frozen.error()));
    machine_->stop();
    return result;
  }

 private:
  Expected<void> freeze(std::uint32_t times, nlohmann::json& nanoseconds) {
    nanoseconds = nlohmann::json::array();
    for (std::uint32_t i = 0; i < times; ++i) {
      const auto until = Clock::now() + kShortestRun + (i * 3 % kRunLengths) * 1ms;
      while (Clock::now() < until && !end_) loop_.run_one_until(until);
      if (end_) return fail(ErrorCode::kHost, "the guest ended: " + *end_);
      const auto pause = machine_->pause(kFreezeLimit);
      if (!pause) return std::unexpected(pause.error());
      if (!pause->missing.empty())
        return fail(ErrorCode::kHost, fmt::format("freeze {}: a vCPU is missing", i));
      nanoseconds.push_back(pause->rendezvous.count());
      if (auto resumed = machine_->resume(); !resumed) return resumed;
    }
    return {};
  }

  boost::asio::io_context loop_;
  BootSpec spec_;
  std::string console_;
  std::optional<std::string> end_;
  std::unique_ptr<Machine> machine_;
};

int run(int argc, char** argv) {
  const auto vcpus = argc >= 4 ? number(argv[2], kMostVcpus) : std::nullopt;
  const auto freezes = argc >= 4 ? number(argv[3], kMostFreezes) : std::nullopt;
  if (!vcpus || *vcpus == 0 || !freezes) {
    fmt::print(stderr, "usage: vmm-bench KERNEL VCPUS FREEZES [KERNEL-ARGUMENT...]\n");
    return 2;
  }
  std::string arguments;
  for (int i = 4; i < argc; ++i) arguments += fmt::format(" {}", argv[i]);
  const auto kernel = KernelImage::open(argv[1]);
  auto spec = kernel ? boot_spec(*kernel, *vcpus, arguments) : std::unexpected(kernel.error());
  const auto result = spec ? Bench(std::move(*spec)).run(*freezes) : std::unexpected(spec.error());
  if (!result) {
    fmt::print(stderr, "vmm-bench: {}\n{}\n", result.error().to_string(), result.error().detail());
    return 1;
  }
  fmt::print("{}\n", result->dump());
  return 0;
}

}  // namespace
}  // namespace ktstr

int main(int argc, char** argv) {
  return ktstr::run(argc, argv);
}
