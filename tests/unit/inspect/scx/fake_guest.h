// FakeGuest: a kernel with sched_ext laid down in MockMemory, for tests of what reads one.
//
// Physical memory has the kernel's image at 16 MiB, with page tables in it, and a heap at 64 MiB that
// per-CPU areas and all objects come from. Each structure is of the types in fake_types.h; a member is
// written by its access path, as walkers read it:
//
//     FakeGuest guest;
//     const Kva task = guest.add_task({.pid = 7, .comm = "spin"});
//     guest.queue(guest.local_dsq(1), task);
//     guest.set(task, "task_struct", "scx.slice", 12);
//     const Dump dump = guest.dump();
//
// A new guest is sound: one root scheduler "fake" (unless the shape has none), an idle task on each CPU.
// Misuse ends the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "host/inspect/scx/scx_capture.h"
#include "host/inspect/scx/scx_inspect.h"
#include "host/kernel/guest_kernel.h"
#include "host/memory/kernel_memory.h"
#include "host/memory/mock_memory.h"
#include "tests/unit/inspect/scx/fake_types.h"

namespace ktstr::test {

struct FakeOptions {
  Shape shape = Shape::kNew;
  std::uint32_t cpus = 4;
  std::set<std::string, std::less<>> without = {};  // symbols that the kernel does not have
  bool per_cpu = true;                              // __per_cpu_offset is set up
  SymbolSource source = SymbolSource::kVmlinux;
  std::size_t heap = std::size_t{4} << 20;
  std::uint32_t nodes = 1;
};

struct FakeTask {
  std::int32_t pid = 0;
  std::string comm = {};
  Kva leader = {};  // of the process it is a thread of; none: it is a leader itself
  bool on_scx_tasks = true;
  bool in_tree = true;
};

class FakeGuest {
 public:
  static constexpr std::uint64_t kText = 0xffffffff81000000;
  static constexpr std::uint64_t kImageBytes = std::uint64_t{8} << 20;
  static constexpr std::uint64_t kImagePa = std::uint64_t{16} << 20;
  static constexpr std::uint64_t kHeapPa = std::uint64_t{64} << 20;
  static constexpr Kva kDirectMap{0xffff888000000000};
  static constexpr Kva kHeap{0xffff888000000000 + kHeapPa};
  static constexpr std::uint32_t kHz = 250;
  static constexpr std::uint64_t kJiffies = 4294900000;
  static constexpr std::uint64_t kStack = 4096;  // sizeof(union thread_union)

  explicit FakeGuest(FakeOptions options = {});

  const FakeOptions& options() const { return options_; }
  const KernelTypes& types() const { return *types_; }
  const SymbolTable& symbols() const { return symbols_; }
  GuestKernel& kernel() { return *kernel_; }
  KernelMemory& memory() { return *memory_; }
  MockMemory& physical() { return mock_; }
  const ScxPlan& plan() const { return *plan_; }
  const std::string& btf() const { return btf_bytes_; }
  // By address, as a link map has them.
  std::vector<std::pair<std::string, std::uint64_t>> symbol_list() const;
  Gpa page_tables() const { return Gpa(kImagePa + 0x300000); }

  // Raw memory. Zeroed; `align` a power of two.
  Kva alloc(std::size_t bytes, std::size_t align = 16);
  template <typename T>
  void write(Kva at, T value) {
    mock_.write_value(gpa(at), value);
  }
  std::uint64_t read64(Kva at) { return mock_.value_at<std::uint64_t>(gpa(at)); }
  // With its terminating zero; returns where it is.
  Kva text(std::string_view text);

  // Typed memory.
  Kva make(std::string_view type, std::size_t extra = 0);
  Kva at(Kva object, std::string_view type, std::string_view path) const;
  bool has(std::string_view type, std::string_view path) const;
  void set(Kva object, std::string_view type, std::string_view path, std::uint64_t value);
  void set_text(Kva object, std::string_view type, std::string_view path, std::string_view text);
  std::uint64_t get(Kva object, std::string_view type, std::string_view path);

  // Lists.
  void init_list(Kva head);
  void append(Kva head, Kva node);

  // Globals and per-CPU areas.
  Kva symbol(std::string_view name) const;
  bool has_symbol(std::string_view name) const { return symbols_.find(name).has_value(); }
  // The same place of each CPU's area; the address is that of a `__percpu` pointer.
  std::uint64_t alloc_per_cpu(std::size_t bytes);
  Kva per_cpu(std::uint64_t pointer, std::uint32_t cpu) const;
  Kva rq(std::uint32_t cpu) const;

  // Schedulers. The root is made by the constructor.
  Kva root() const { return root_; }
  Kva add_sched(std::string_view name, Kva parent);
  Kva sched_cpu(Kva sched, std::uint32_t cpu);
  Kva exit_info(Kva sched);
  // Fills struct scx_exit_info, and the scheduler's exit_kind.
  void fail_sched(Kva sched, std::uint32_t kind, std::string_view reason, std::string_view message);

  // Queues.
  Kva local_dsq(std::uint32_t cpu);
  Kva global_dsq(std::uint32_t node, Kva sched = {});
  Kva bypass_dsq(std::uint32_t cpu, Kva sched = {});
  Kva add_user_dsq(std::uint64_t id, Kva sched = {});
  void init_dsq(Kva dsq, std::uint64_t id, Kva sched);
  // Where a scheduler's struct rhashtable is.
  Kva hash_of(Kva sched);
  Kva make_buckets(std::uint32_t size);
  void hash_in(Kva buckets, std::uint32_t bucket, Kva dsq);
  // FIFO.
  void queue(Kva dsq, Kva task);
  // In this order, which is that of vtime; each task's dsq_vtime is 100, 200, ...
  void queue_vtime(Kva dsq, const std::vector<Kva>& tasks);
  // The cursor of a BPF iterator; returns its struct scx_dsq_list_node.
  Kva add_dsq_cursor(Kva dsq);

  // Tasks.
  Kva init_task() const { return symbol("init_task"); }
  Kva idle_task(std::uint32_t cpu) const { return idle_[cpu]; }
  Kva add_task(const FakeTask& task);
  // Puts a task on a CPU's runnable list, as waiting since `ms` ago.
  void make_runnable(Kva task, std::uint32_t cpu, std::uint64_t ms);
  void run_on(std::uint32_t cpu, Kva task);
  void set_ops_state(Kva task, std::uint64_t state, std::uint64_t qseq = 0);
  // An entry of scx_tasks that is no task.
  Kva add_task_cursor();

  // Both halves of a dump; `captured`: from copies, else from the live memory.
  ktstr::v1::Dump dump(bool captured = true, const CaptureHints& hints = {},
                       const CaptureLimits& limits = {});
  ScxObjects capture(CapturedMemory& into, const CaptureHints& hints = {}, const CaptureLimits& limits = {});
  InspectInput input() const { return {.hz = kHz, .vcpus = {}, .orc = nullptr}; }

 private:
  Gpa gpa(Kva kva);
  void make_symbols();
  void map_memory();
  void make_cpus();
  void make_globals();
  void make_first_sched();
  Kva make_global_dsqs(Kva sched);
  Kva tree_of(const std::vector<Kva>& nodes, std::size_t first, std::size_t last, Kva parent);
  bool is_new() const { return options_.shape == Shape::kNew || options_.shape == Shape::kNewer; }
  bool has_scx() const { return is_new() || options_.shape == Shape::kLegacy; }

  FakeOptions options_;
  std::string btf_bytes_;
  std::optional<Btf> btf_;
  std::optional<KernelTypes> types_;
  std::map<std::string, std::uint64_t, std::less<>> places_;
  SymbolTable symbols_;
  MockMemory mock_;
  std::optional<KernelMemory> memory_;
  std::optional<GuestKernel> kernel_;
  std::optional<ScxPlan> plan_;
  Kva next_ = kHeap;
  std::uint64_t per_cpu_begin_ = 0, per_cpu_next_ = 0;
  std::vector<Kva> units_;  // per-CPU areas
  std::vector<Kva> idle_;
  Kva root_;
};

}  // namespace ktstr::test
