// What a dump costs, step by step: from a memory image (an ELF core) and the kernel's image, as often as
// asked.
//
//   dump-bench time CORE KERNEL RUNS    prints one JSON object: for each step the median, least and most of
//   processor
//                                       and wall time in ms, and how much there is in the dump
//   dump-bench peak CORE KERNEL FOLDER  makes one dump with all its files in FOLDER; prints the largest
//   amount of
//                                       memory that this took, in bytes, the core's pages not counted
//   dump-bench fields CORE KERNEL RUNS FIELD...  those members of every task and nothing else, from memory
//   never
//                                       looked at before and again; their sum, to compare with another
//                                       reader's
//   dump-bench open KERNEL RUNS         first and later use of a kernel image only; the cache is a folder of
//   its own
//
// The steps are those of a run: the image is opened and the plan made before the machine starts; "capture" is
// all that happens while the guest stands still (finding the kernel is "locate", once a run); the rest comes
// after the resume. A live guest's memory has not been looked at by this process before, so "capture" maps
// the core anew each time; "capture_again" is a later freeze of the same run.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "host/inspect/scx/scx_dumper.h"
#include "host/memory/core_file.h"
#include "host/report/dump/dump_file.h"
#include "host/report/dump/dump_json.h"
#include "host/report/dump/dump_text.h"
#include "tests/bench/task_fields.h"

namespace ktstr {
namespace {

// As FreezeCoordinator does it.
constexpr std::size_t kArena = std::size_t{2} << 20;

[[noreturn]] void die(const std::string& text) {
  fmt::print(stderr, "dump-bench: {}\n", text);
  std::exit(1);
}

template <typename T>
T need(Expected<T> value) {
  if (!value) die(value.error().to_string());
  return std::move(*value);
}

void need(Expected<void> value) {
  if (!value) die(value.error().to_string());
}

double processor_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

// Times of one step, in ms.
class Steps {
 public:
  // Runs `work` and notes what it took.
  template <typename Work>
  auto take(const std::string& step, Work&& work) {
    const auto begin = std::chrono::steady_clock::now();
    const double cpu = processor_ms();
    auto result = work();
    auto& times = times_[step];
    times.cpu.push_back(processor_ms() - cpu);
    times.wall.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    return result;
  }
  // "name": {"cpu": [median, least, most], "wall": [...]}, ...
  std::string json() const {
    std::string text;
    for (const auto& [step, times] : times_) {
      text += fmt::format("{}\"{}\": {{\"cpu\": {}, \"wall\": {}}}", text.empty() ? "" : ", ", step,
                          summary(times.cpu), summary(times.wall));
    }
    return text;
  }

 private:
  struct Times {
    std::vector<double> cpu, wall;
  };
  static std::string summary(std::vector<double> values) {
    std::ranges::sort(values);
    return fmt::format("[{:.3f}, {:.3f}, {:.3f}]", values[values.size() / 2], values.front(), values.back());
  }
  std::map<std::string, Times> times_;
};

// A core, opened, with the registers as locate() and capture() want them.
struct OpenCore {
  CoreFile file;
  std::vector<std::optional<VcpuRegisters>> registers;
  std::optional<Vmcoreinfo> info;

  explicit OpenCore(const std::string& path) : file(need(CoreFile::open(path))) {
    for (const VcpuRegistersOfCore& one : file.vcpus()) {
      VcpuRegisters& vcpu = registers.emplace_back(VcpuRegisters{}).value();
      vcpu.rip = one.rip;
      vcpu.rsp = one.general[7];
      vcpu.cs = static_cast<std::uint16_t>(one.cs);
      vcpu.cr3 = one.cr3.value_or(0);
      vcpu.cr4 = one.cr4.value_or(0);
      vcpu.idt_base = one.idt_base.value_or(0);
      vcpu.idt_limit = one.idt_limit.value_or(0);
    }
    if (!file.vmcoreinfo().empty())
      info = need(parse_vmcoreinfo(std::as_bytes(std::span(file.vmcoreinfo()))));
  }
  StoppedGuest guest() const { return {file.memory(), registers, info ? &*info : nullptr, std::nullopt}; }
  std::uint32_t cpus() const {
    return registers.empty() ? GuestKernel::kMaxCpus : static_cast<std::uint32_t>(registers.size());
  }
};

std::string temporary_folder() {
  std::string path = (std::filesystem::temp_directory_path() / "dump-bench-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) die("cannot make a folder in " + path);
  return path;
}

// First and later use of the image, each time by a KernelImage of its own.
void time_image(Steps& steps, const std::string& kernel, std::uint32_t cpus, int runs) {
  const std::string folder = temporary_folder();
  const ImageCache cache(folder);
  const auto open = [&](const std::string& kind) {
    steps.take("all_" + kind, [&] {
      const auto image = steps.take("image_" + kind, [&] { return need(KernelImage::open(kernel, cache)); });
      if (image.payload_from_cache() != (kind == "warm"))
        die("the cache does not do its work: " + image.cache_note());
      return steps.take("dumper_" + kind, [&] { return need(ScxDumper::create(image, {}, cpus)); });
    });
  };
  for (int run = 0; run < runs; ++run) {
    std::filesystem::remove_all(folder);
    open("cold");
  }
  // An entry that was just written is verified once more before that is remembered (file_stamp.h).
  std::this_thread::sleep_for(std::chrono::seconds(4));
  static_cast<void>(need(KernelImage::open(kernel, cache)));
  for (int run = 0; run < runs; ++run) open("warm");
  const auto image = need(KernelImage::open(kernel, cache));
  for (int run = 0; run < runs; ++run) {
    const auto symbols = steps.take("symbols", [&] { return need(find_symbols(image)); });
    const auto types = steps.take("types", [&] { return KernelTypes(*image.btf()); });
    steps.take("plan", [&] { return make_scx_plan(types, cpus); });
  }
  std::filesystem::remove_all(folder);
}

std::string time_dumps(Steps& steps, const std::string& path, const KernelImage& image, int runs) {
  std::string facts;
  const OpenCore first(path);
  const auto dumper = need(ScxDumper::create(image, {}, first.cpus()));
  CapturedMemory arena;
  arena.prepare(kArena);
  for (int run = 0; run < runs; ++run) {
    const OpenCore core(path);
    dumper->forget_location();
    steps.take("locate", [&] {
      need(dumper->locate(core.guest()));
      return 0;
    });
    CapturedMemory fresh;
    fresh.prepare(kArena);
    static_cast<void>(
        steps.take("capture", [&] { return need(dumper->capture(core.guest(), Kva(), std::move(fresh))); }));
    auto captured = steps.take("capture_again",
                               [&] { return need(dumper->capture(core.guest(), Kva(), std::move(arena))); });
    auto dump = steps.take("inspect", [&] { return dumper->inspect(captured); });
    std::string json, text, pb;
    steps.take("json", [&] {
      DumpSink sink(DumpSink::to_string(json));
      write_dump_json(dump, sink);
      return sink.finish();
    });
    steps.take("text", [&] {
      DumpSink sink(DumpSink::to_string(text));
      write_dump_text(dump, {.all = true}, sink);
      return sink.finish();
    });
    steps.take("pb", [&] { return dump.SerializeToString(&pb); });
    if (run == 0) {
      int queued = 0;
      for (const auto& dsq : dump.dsqs()) queued += dsq.tasks_size();
      facts = fmt::format(
          "\"tasks\": {}, \"cpus\": {}, \"dsqs\": {}, \"queued\": {}, \"faults\": {}, \"captured_bytes\": "
          "{}, "
          "\"json_bytes\": {}, \"text_bytes\": {}, \"pb_bytes\": {}, \"release\": \"{}\"",
          dump.tasks_size(), dump.cpus_size(), dump.dsqs_size(), queued, dump.header().faults(),
          captured.memory.bytes(), json.size(), text.size(), pb.size(), image.release());
    }
    arena = std::move(captured.memory);
  }
  return facts;
}

std::string time_fields(Steps& steps, const std::string& path, const KernelImage& image, int runs,
                        const std::vector<std::string>& fields) {
  const OpenCore first(path);
  const auto dumper = need(ScxDumper::create(image, {}, first.cpus()));
  const TaskFields reader = need(TaskFields::create(dumper->types(), fields));
  TaskFields::Values values;
  for (int run = 0; run < runs; ++run) {
    const OpenCore core(path);
    dumper->forget_location();
    need(dumper->locate(core.guest()));
    // Loads the per-CPU offsets; of another mapping, so that this one stays untouched.
    static_cast<void>(need(dumper->capture(first.guest(), Kva(), {})));
    for (const char* step : {"fields", "fields_again"}) {
      auto memory = need(dumper->view(core.file.memory()));
      values = steps.take(step, [&] { return need(reader.read(dumper->kernel(), memory)); });
    }
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t number : values.numbers) sum += number;
  return fmt::format("\"tasks\": {}, \"sum\": \"{:#x}\"", values.tasks, sum);
}

// Kilobytes behind `key` of all lines in a file of /proc that follow a line which ends with `owner`
// (everywhere, if that is empty).
std::uint64_t kilobytes(const char* file, const std::string& key, const std::string& owner) {
  std::ifstream stream(file);
  std::string line;
  bool inside = owner.empty();
  std::uint64_t sum = 0;
  while (std::getline(stream, line)) {
    const bool header =
        !owner.empty() && line.find('-') < line.find(' ') && line.find(':') != line.size() - 1;
    if (header && line.find("kB") == std::string::npos) inside = line.ends_with(owner);
    if (inside && line.starts_with(key)) sum += std::strtoull(line.c_str() + key.size(), nullptr, 10);
  }
  return sum;
}

void peak(const std::string& path, const std::string& kernel, const std::string& folder) {
  const OpenCore core(path);
  const auto image = need(KernelImage::open(kernel));
  const auto dumper = need(ScxDumper::create(image, {}, core.cpus()));
  need(dumper->locate(core.guest()));
  CapturedMemory arena;
  arena.prepare(kArena);
  auto captured = need(dumper->capture(core.guest(), Kva(), std::move(arena)));
  auto dump = dumper->inspect(captured);
  need(write_dump(folder, 1, dump));
  // The core's pages came before the peak, and stay.
  const std::uint64_t of_core =
      kilobytes("/proc/self/smaps", "Rss:", std::filesystem::canonical(path).string());
  fmt::print("{{\"peak_bytes\": {}, \"tasks\": {}}}\n",
             (kilobytes("/proc/self/status", "VmHWM:", "") - of_core) * 1024, dump.tasks_size());
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 4 && arguments[0] == "peak") {
    peak(arguments[1], arguments[2], arguments[3]);
    return 0;
  }
  Steps steps;
  if (arguments.size() == 3 && arguments[0] == "open") {
    time_image(steps, arguments[1], 16, std::max(std::atoi(arguments[2].c_str()), 1));
    fmt::print("{{{}}}\n", steps.json());
    return 0;
  }
  if (arguments.size() > 4 && arguments[0] == "fields") {
    const auto image = need(KernelImage::open(arguments[2]));
    const std::string facts =
        time_fields(steps, arguments[1], image, std::max(std::atoi(arguments[3].c_str()), 1),
                    {arguments.begin() + 4, arguments.end()});
    fmt::print("{{{}, {}}}\n", facts, steps.json());
    return 0;
  }
  if (arguments.size() == 4 && arguments[0] == "time") {
    const auto image = need(KernelImage::open(arguments[2]));
    const std::string facts =
        time_dumps(steps, arguments[1], image, std::max(std::atoi(arguments[3].c_str()), 1));
    fmt::print("{{{}, {}}}\n", facts, steps.json());
    return 0;
  }
  fmt::print(stderr,
             "usage: dump-bench time CORE KERNEL RUNS | fields CORE KERNEL RUNS FIELD... | peak CORE KERNEL "
             "FOLDER | open KERNEL RUNS\n");
  return 2;
}

}  // namespace
}  // namespace ktstr

int main(int argc, char** argv) {
  return ktstr::run(std::vector<std::string>(argv + 1, argv + argc));
}
