// Measures snapshots at the machine, without a run around it: what saving costs the guest that is saved, and
// how fast clones answer.
//
//   clone-bench tcg|kvm KERNEL VCPUS CLONES AT-ONCE [TEXT]
//
// KERNEL as for ktstr-vm --kernel. Makes one snapshot of a guest whose PID 1 echoes frames, CLONES clones one
// after the other, and AT-ONCE that live together. Prints one line of JSON: times in ms, memory in KiB of
// what a clone has for itself. TEXT: the snapshot is made when the console shows that, and nobody asks the
// guest for echoes; for a /dev/kvm on which a kernel starts and does not come up.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "host/boot/initramfs.h"
#include "host/boot/module_closure.h"
#include "host/kernel/kernel_image.h"
#include "host/machine/create.h"
#include "host/memory/guest_memory.h"

namespace ktstr {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMostVcpus = 64;
constexpr std::uint32_t kMostClones = 1000;
constexpr auto kAnswerLimit = 240s;

std::optional<std::uint32_t> number(std::string_view text, std::uint32_t least, std::uint32_t most) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most)
    return std::nullopt;
  return value;
}

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

Expected<void> pack(const KernelImage& kernel, AccelChoice accel, InitramfsBuilder& builder) {
  std::vector<WantedModule> wanted;
  for (const std::string& name : needed_modules(accel)) wanted.push_back({.name = name});
  const auto closure =
      module_closure(kernel.modules_dir().value_or(""), wanted, [&](std::string_view option) {
        const std::string value(kernel.config().lookup(std::string(option)).text);
        return value.size() == 1 ? std::optional(value[0]) : std::nullopt;
      });
  if (!closure) return std::unexpected(closure.error());
  if (auto packed = pack_modules(*closure, builder); !packed) return packed;
  return builder.add_file("/init", KTSTR_ECHO_INIT, 0755);
}

Expected<BootSpec> boot_spec(const KernelImage& kernel, AccelChoice accel, std::uint32_t vcpus) {
  InitramfsBuilder builder;
  if (auto packed = pack(kernel, accel, builder); !packed) return std::unexpected(std::move(packed.error()));
  auto initramfs = builder.build(InitramfsCompression::kNone);
  if (!initramfs) return std::unexpected(std::move(initramfs.error()));
  auto payload = kernel.payload_fd();
  if (!payload) return std::unexpected(std::move(payload.error()));
  BootSpec spec;
  spec.kernel = std::move(*payload);
  spec.kernel_is_elf = true;
  spec.initramfs = std::move(initramfs->memfd);
  spec.initramfs_size = initramfs->size;
  // The early console: a software KVM may not get as far as the other one.
  spec.command_line = "nokaslr ktstr_test=echo earlyprintk=serial,ttyS0";
  spec.memory_bytes = std::uint64_t{512} << 20;
  spec.topology = {.numa_nodes = 1, .llcs = 1, .cores_per_llc = vcpus, .threads_per_core = 1};
  spec.kernel_hz = kernel.config().hz();
  return spec;
}

// Pages that only `process` has, KiB.
long private_kib(pid_t process) {
  std::ifstream smaps(fmt::format("/proc/{}/smaps_rollup", process));
  long total = 0;
  for (std::string key, value; smaps >> key >> value;) {
    if (key == "Private_Dirty:") total += std::stol(value);
    smaps.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return total;
}

class Guest {
 public:
  Guest(AccelChoice accel, BootSpec spec) : accel_(accel), spec_(std::move(spec)) {}

  Expected<void> start() {
    auto machine = create_machine(accel_, loop_, std::move(spec_), {});
    if (!machine) return std::unexpected(std::move(machine.error()));
    machine_ = std::move(*machine);
    machine_->set_console_receiver([this](ConsolePort, std::span<const std::byte> bytes) {
      console_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    machine_->frames().set_receiver([this](std::span<const std::byte> bytes) { echoed_ += bytes.size(); });
    machine_->set_event_receiver([this](const MachineEvent& event) { end_ = event.detail; });
    return machine_->start();
  }

  Expected<void> await_console(std::string_view text) {
    return await([&] { return console_.find(text) != std::string::npos; });
  }

  // Sends a word and waits until it has come back; ms.
  Expected<double> ask() {
    constexpr std::string_view kWord = "a word of some forty bytes to be echoed";
    const auto begin = Clock::now();
    echoed_ = 0;
    if (auto sent = machine_->frames().send(kWord); !sent) return std::unexpected(std::move(sent.error()));
    if (auto done = await([&] { return echoed_ >= kWord.size(); }); !done)
      return std::unexpected(std::move(done.error()));
    return ms_since(begin);
  }

  // ns for one value of 8 bytes, at places all over the guest's memory.
  Expected<double> time_of_a_read() {
    constexpr std::uint64_t kReads = 100000;
    constexpr std::uint64_t kStep = 4096 + 64;
    std::vector<MemoryRegion> regions;
    for (const RamRegion& region : machine_->ram())
      regions.push_back({Gpa(region.gpa), region.host, region.process});
    const auto memory = GuestMemory::create(std::move(regions));
    if (!memory) return std::unexpected(memory.error());
    ReadBudget budget(kReads * 8, kReads);
    const auto begin = Clock::now();
    for (std::uint64_t i = 0; i < kReads; ++i) {
      if (!memory->read<std::uint64_t>(Gpa(i * kStep), budget))
        return fail(ErrorCode::kHost, "cannot read guest memory");
    }
    return ms_since(begin) * 1e6 / static_cast<double>(kReads);
  }

  Machine& machine() { return *machine_; }
  // Of the emulator, or of this process when it is the machine.
  long own_kib() const {
    const auto ram = machine_->ram();
    return private_kib(ram.empty() || ram.front().process == 0 ? getpid() : ram.front().process);
  }

 private:
  Expected<void> await(const std::function<bool()>& done) {
    const auto limit = Clock::now() + kAnswerLimit;
    while (!done()) {
      if (end_) return fail(ErrorCode::kHost, "the guest ended: " + *end_ + "\n" + console_);
      if (Clock::now() >= limit) return fail(ErrorCode::kHost, "the guest does not answer:\n" + console_);
      loop_.run_one_until(limit);
    }
    return {};
  }

  boost::asio::io_context loop_;
  AccelChoice accel_;
  BootSpec spec_;
  std::string console_;
  std::size_t echoed_ = 0;
  std::optional<std::string> end_;
  std::unique_ptr<Machine> machine_;
};

class Bench {
 public:
  Bench(AccelChoice accel, const KernelImage& kernel, std::uint32_t vcpus, std::string text)
      : accel_(accel), kernel_(kernel), vcpus_(vcpus), text_(std::move(text)) {}

  Expected<nlohmann::json> run(std::uint32_t clones, std::uint32_t at_once) {
    auto done = make_snapshot();
    for (std::uint32_t i = 0; done && i < clones; ++i) done = clone_once();
    if (done && at_once > 0) done = live_together(at_once);
    if (!done) return std::unexpected(std::move(done.error()));
    return std::move(result_);
  }

 private:
  bool echoes() const { return text_.empty(); }

  Expected<void> make_snapshot() {
    auto spec = boot_spec(kernel_, accel_, vcpus_);
    if (!spec) return std::unexpected(std::move(spec.error()));
    Guest guest(accel_, std::move(*spec));
    const auto begin = Clock::now();
    if (auto started = guest.start(); !started) return started;
    if (auto up = guest.await_console(echoes() ? "ECHO 1" : text_); !up) return up;
    result_["boot"] = ms_since(begin);
    if (echoes()) {
      if (auto answer = guest.ask(); !answer) return std::unexpected(std::move(answer.error()));
    }
    // Where the cache is: the disk is part of it.
    for (UniqueFd* file : {&files_.ram, &files_.state}) {
      file->reset(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
      if (!*file) return fail_errno(ErrorCode::kHost, "cannot make a file");
    }
    return save(guest);
  }

  Expected<void> save(Guest& guest) {
    const auto begin = Clock::now();
    if (auto paused = guest.machine().pause(kAnswerLimit); !paused)
      return std::unexpected(std::move(paused.error()));
    result_["pause"] = ms_since(begin);
    if (auto saved = guest.machine().save(files_); !saved) return std::unexpected(std::move(saved.error()));
    result_["paused_and_saved"] = ms_since(begin);
    if (echoes()) {
      if (auto resumed = guest.machine().resume(); !resumed) return resumed;
      auto answer = guest.ask();
      if (!answer) return std::unexpected(std::move(answer.error()));
      result_["saved_guest_answers"] = ms_since(begin);
    }
    // For comparison; last, because it makes pages of holes.
    auto read = guest.time_of_a_read();
    if (!read) return std::unexpected(std::move(read.error()));
    result_["saved_guest_read_ns"] = *read;
    struct stat st {};
    if (fstat(files_.ram.get(), &st) == 0) result_["ram_kib"] = st.st_blocks / 2;
    if (fstat(files_.state.get(), &st) == 0) result_["state_kib"] = st.st_size / 1024;
    return {};
  }

  Expected<std::unique_ptr<Guest>> started_clone() {
    auto spec = boot_spec(kernel_, accel_, vcpus_);
    if (!spec) return std::unexpected(std::move(spec.error()));
    spec->snapshot = SnapshotFiles{UniqueFd(fcntl(files_.ram.get(), F_DUPFD_CLOEXEC, 3)),
                                   UniqueFd(fcntl(files_.state.get(), F_DUPFD_CLOEXEC, 3))};
    auto guest = std::make_unique<Guest>(accel_, std::move(*spec));
    const auto begin = Clock::now();
    if (auto started = guest->start(); !started) return std::unexpected(std::move(started.error()));
    result_["start"].push_back(ms_since(begin));
    if (const auto first = guest->machine().statistics().first_run)
      result_["first_run"].push_back(std::chrono::duration<double, std::milli>(*first - begin).count());
    return guest;
  }

  Expected<void> clone_once() {
    const long before = private_kib(getpid());
    auto guest = started_clone();
    if (!guest) return std::unexpected(std::move(guest.error()));
    for (const char* name : {"first_answer", "second_answer", "third_answer"}) {
      if (!echoes()) break;
      auto answer = (*guest)->ask();
      if (!answer) return std::unexpected(std::move(answer.error()));
      result_[name].push_back(*answer);
    }
    const auto ram = (*guest)->machine().ram();
    result_["own_kib"].push_back((*guest)->own_kib() - (ram.front().process == 0 ? before : 0));
    auto read = (*guest)->time_of_a_read();
    if (!read) return std::unexpected(std::move(read.error()));
    result_["read_ns"].push_back(*read);
    return {};
  }

  Expected<void> live_together(std::uint32_t count) {
    const long before = private_kib(getpid());
    std::vector<std::unique_ptr<Guest>> guests;
    for (std::uint32_t i = 0; i < count; ++i) {
      auto guest = started_clone();
      if (!guest) return std::unexpected(std::move(guest.error()));
      guests.push_back(std::move(*guest));
    }
    long total = 0;
    for (const auto& guest : guests) {
      if (!echoes()) break;
      if (auto answer = guest->ask(); !answer) return std::unexpected(std::move(answer.error()));
    }
    for (const auto& guest : guests) {
      const bool emulated = guest->machine().ram().front().process != 0;
      if (emulated) total += guest->own_kib();
    }
    result_["together_kib"] = total != 0 ? total : private_kib(getpid()) - before;
    return {};
  }

  AccelChoice accel_;
  const KernelImage& kernel_;
  std::uint32_t vcpus_;
  std::string text_;
  SnapshotFiles files_;
  nlohmann::json result_;
};

int run(int argc, char** argv) {
  const bool wanted = argc == 6 || argc == 7;
  const std::string_view kind = wanted ? argv[1] : "";
  const auto vcpus = wanted ? number(argv[3], 1, kMostVcpus) : std::nullopt;
  const auto clones = wanted ? number(argv[4], 0, kMostClones) : std::nullopt;
  const auto at_once = wanted ? number(argv[5], 0, kMostClones) : std::nullopt;
  if ((kind != "tcg" && kind != "kvm") || !vcpus || !clones || !at_once) {
    fmt::print(stderr, "usage: clone-bench tcg|kvm KERNEL VCPUS CLONES AT-ONCE [TEXT]\n");
    return 2;
  }
  const auto kernel = KernelImage::open(argv[2]);
  if (!kernel) {
    fmt::print(stderr, "clone-bench: {}\n", kernel.error().to_string());
    return 1;
  }
  const auto accel = kind == "kvm" ? AccelChoice::kKvm : AccelChoice::kTcg;
  const auto result = Bench(accel, *kernel, *vcpus, argc == 7 ? argv[6] : "").run(*clones, *at_once);
  if (!result) {
    fmt::print(stderr, "clone-bench: {}\n{}\n", result.error().to_string(), result.error().detail());
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
