#include "tests/vm/machine/machine_harness.h"

#include <algorithm>
#include <cstdlib>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "host/boot/initramfs.h"
#include "host/boot/module_closure.h"
#include "host/kernel/symbol_sources.h"

namespace ktstr::test {

std::optional<KernelImage> test_kernel() {
  const char* const series = std::getenv("KTSTR_TEST_MACHINE_SERIES");
  const char* const folder =
      std::getenv((std::string("KTSTR_TEST_KERNEL_") + (series == nullptr ? "72" : series)).c_str());
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  auto kernel = KernelImage::open(folder);
  if (!kernel) {
    ADD_FAILURE() << kernel.error().to_string();
    return std::nullopt;
  }
  return std::move(*kernel);
}

namespace {

// What the guest needs to see its virtio ports.
void add_modules(const KernelImage& kernel, InitramfsBuilder& builder) {
  std::vector<WantedModule> wanted;
  for (const std::string& name : needed_modules(test_accel())) wanted.push_back({.name = name});
  const auto closure =
      module_closure(kernel.modules_dir().value_or(""), wanted, [&](std::string_view option) {
        const std::string value(kernel.config().lookup(std::string(option)).text);
        return value.size() == 1 ? std::optional(value[0]) : std::nullopt;
      });
  ASSERT_TRUE(closure) << closure.error().to_string();
  const auto packed = pack_modules(*closure, builder);
  ASSERT_TRUE(packed) << packed.error().to_string();
}

}  // namespace

InitramfsFile test_initramfs(const KernelImage& kernel) {
  InitramfsBuilder builder;
  const auto added = builder.add_file("/init", KTSTR_TEST_INIT, 0755);
  EXPECT_TRUE(added) << added.error().to_string();
  add_modules(kernel, builder);
  auto built = builder.build(InitramfsCompression::kNone);
  EXPECT_TRUE(built) << built.error().to_string();
  if (!built) return {};
  return {std::move(built->memfd), built->size};
}

BootSpec test_boot_spec(const KernelImage& kernel, const std::string& what, Entry entry) {
  BootSpec spec;
  auto image = entry == Entry::kPayload ? kernel.payload_fd() : kernel.image_fd();
  EXPECT_TRUE(image) << image.error().to_string();
  if (image) spec.kernel = std::move(*image);
  spec.kernel_is_elf = entry == Entry::kPayload;
  auto initramfs = test_initramfs(kernel);
  spec.initramfs = std::move(initramfs.fd);
  spec.initramfs_size = initramfs.size;
  spec.command_line = (entry == Entry::kPayload ? "nokaslr ktstr_test=" : "ktstr_test=") + what;
  spec.memory_bytes = std::uint64_t{512} << 20;
  spec.topology = {.numa_nodes = 1, .llcs = 1, .cores_per_llc = 2, .threads_per_core = 1};
  spec.kernel_hz = 250;
  return spec;
}

AccelChoice test_accel() {
  const char* const name = std::getenv("KTSTR_TEST_ACCEL");
  return name != nullptr && std::string_view(name) == "kvm" ? AccelChoice::kKvm : AccelChoice::kTcg;
}

std::optional<TrapKind> test_traps() {
  const char* const name = std::getenv("KTSTR_TEST_TRAPS");
  if (name == nullptr || *name == '\0') return std::nullopt;
  return std::string_view(name) == "port" ? TrapKind::kPort : TrapKind::kBreakpoint;
}

MachineUnderTest::MachineUnderTest(BootSpec spec, MachineOptions options) {
  options.traps = test_traps();
  auto machine = create_machine(test_accel(), loop_, std::move(spec), options);
  if (!machine) {
    ADD_FAILURE() << machine.error().to_string();
    return;
  }
  machine_ = std::move(*machine);
  machine_->set_console_receiver([this](ConsolePort port, std::span<const std::byte> bytes) {
    if (!first_byte) first_byte = std::chrono::steady_clock::now() - started;
    std::string& text = port == ConsolePort::kSerial ? serial : hvc;
    for (const std::byte byte : bytes) text.push_back(static_cast<char>(byte));
    if (on_console) on_console();
  });
  machine_->frames().set_receiver([this](std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) frames.push_back(static_cast<char>(byte));
  });
  machine_->set_event_receiver([this](const MachineEvent& event) { events.push_back(event); });
}

Expected<void> MachineUnderTest::start() {
  started = std::chrono::steady_clock::now();
  return machine_->start();
}

bool MachineUnderTest::run_until(const std::function<bool()>& done, std::chrono::seconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      if (limit >= kBootLimit && serial.empty() && events.empty()) say_stood_still();
      return false;
    }
    if (loop_.stopped()) loop_.restart();
    loop_.run_one_until(deadline);
  }
  return true;
}

std::optional<MachineEvent> MachineUnderTest::run_to_end() {
  const auto ended = [this] {
    return !events.empty() && events.back().kind != MachineEvent::Kind::kPaused &&
           events.back().kind != MachineEvent::Kind::kTrapped;
  };
  if (!run_until(ended)) return std::nullopt;
  if (events.empty()) return std::nullopt;
  return events.back();
}

std::string MachineUnderTest::places() {
  const auto kernel = test_kernel();
  const auto symbols = kernel ? find_symbols(*kernel) : fail(ErrorCode::kHost, "no kernel");
  const auto paused = machine_->pause(std::chrono::seconds(20));
  if (!paused) return paused.error().to_string() + "\n";
  std::string text;
  for (const auto& one : paused->missing_at) text += one.text + "\n";
  for (std::uint32_t cpu = 0;; ++cpu) {
    const auto regs = machine_->registers(cpu);
    if (!regs) break;
    const auto at = symbols ? symbols->table.nearest(regs->rip) : std::nullopt;
    text += fmt::format(
        "vCPU {}: rip {:#x} ({}), rflags {:#x}, halted: {}, rcx {:#x}, rsi {:#x}, rdi {:#x}, cr2 {:#x}\n",
        cpu, regs->rip, at ? at->name : "?", regs->rflags, regs->halted.value_or(false), regs->rcx, regs->rsi,
        regs->rdi, regs->cr2);
  }
  if (const auto resumed = machine_->resume(); !resumed) text += resumed.error().to_string() + "\n";
  return text;
}

void MachineUnderTest::say_stood_still() {
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  if (test != nullptr)
    fmt::print("{} {}.{}\n{}", kStoodStill, test->test_suite_name(), test->name(), state());
}

std::string MachineUnderTest::state() {
  std::string text = places();
  const MachineStatistics before = machine_->statistics();
  run_until([] { return false; }, std::chrono::seconds(3));
  const MachineStatistics after = machine_->statistics();
  for (std::size_t cpu = 0; cpu < std::min(before.vcpus.size(), after.vcpus.size()); ++cpu) {
    const auto& old = before.vcpus[cpu].counters;
    text += fmt::format("vCPU {} ran {} ms:", cpu,
                        (after.vcpus[cpu].ran - before.vcpus[cpu].ran) / std::chrono::milliseconds(1));
    for (const auto& counter : after.vcpus[cpu].counters) {
      const auto same = std::ranges::find(old, counter.name, &MachineStatistics::Counter::name);
      const std::uint64_t more = counter.value - (same == old.end() ? 0 : same->value);
      if (more > 0) text += fmt::format(" {} {}", counter.name, more);
    }
    text += "\n";
  }
  return text + places() + serial;
}

}  // namespace ktstr::test
