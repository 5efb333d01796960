// FakeGuest: memory, symbols, CPUs. Schedulers, queues and tasks are in fake_objects.cc.
#include "tests/unit/inspect/scx/fake_guest.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "host/memory/page_table_builder.h"

namespace ktstr::test {
namespace {

constexpr std::uint64_t kData = FakeGuest::kText + 0x200000;
constexpr std::uint64_t kPerCpuBytes = 0x4000;
constexpr std::uint64_t kPerCpuStatic = 0x2000;

[[noreturn]] void misuse(const std::string& what) {
  std::fprintf(stderr, "FakeGuest: %s\n", what.c_str());
  std::abort();
}

}  // namespace

FakeGuest::FakeGuest(FakeOptions options)
    : options_(std::move(options)), btf_bytes_(make_fake_types(options_.shape)) {
  auto btf = Btf::parse(std::as_bytes(std::span(btf_bytes_)));
  if (!btf) misuse(btf.error().to_string());
  btf_.emplace(std::move(*btf));
  types_.emplace(*btf_);
  make_symbols();
  map_memory();
  kernel_.emplace(symbols_, &*types_, 0);
  plan_.emplace(make_scx_plan(*types_, options_.cpus));
  make_cpus();
  if (options_.shape == Shape::kNoTypes) return;
  make_globals();
  if (has_scx()) make_first_sched();
}

std::vector<std::pair<std::string, std::uint64_t>> FakeGuest::symbol_list() const {
  std::vector<std::pair<std::string, std::uint64_t>> list(places_.begin(), places_.end());
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second < b.second : a.first < b.first;
  });
  return list;
}

void FakeGuest::make_symbols() {
  const bool legacy = options_.shape == Shape::kLegacy;
  places_ = {{"_text", kText},
             {"_stext", kText},
             {"_etext", kText + 0x100000},
             {"schedule", kText + 0x5000},
             {"do_work", kText + 0x5100},
             {"ext_sched_class", kText + 0x110000},
             {"fair_sched_class", kText + 0x110100},
             {"idle_sched_class", kText + 0x110200},
             {"init_top_pgt", kText + 0x300000},
             {"_end", kText + 0x400000},
             {"nr_cpu_ids", kData},
             {"jiffies_64", kData + 0x40},
             {"nr_node_ids", kData + 0x80},
             {"__per_cpu_offset", kData + 0x1000},
             {"init_task", kData + 0x10000}};
  // Up to 6.14 the per-CPU section was linked at 0.
  per_cpu_begin_ = legacy ? 0 : kText + 0x380000;
  per_cpu_next_ = per_cpu_begin_ + kPerCpuStatic;
  places_["__per_cpu_start"] = per_cpu_begin_;
  places_["__per_cpu_end"] = per_cpu_begin_ + kPerCpuStatic;
  places_["runqueues"] = per_cpu_begin_ + 0x40;
  std::uint64_t next = kData + 0x4000;
  const auto variable = [&](const char* name) { places_[name] = next += 0x40; };
  auto per_cpu_variable = [&, at = per_cpu_begin_ + 0x1800](const char* name) mutable {
    places_[name] = at += 0x80;
  };
  if (has_scx()) {
    for (const char* name : {"scx_tasks", "__scx_switched_all", "scx_switching_all", "scx_nr_rejected",
                             "scx_hotplug_seq", "scx_enable_seq", "scx_watchdog_timestamp"})
      variable(name);
    per_cpu_variable("direct_dispatch_task");
  }
  if (is_new()) {
    for (const char* name :
         {"scx_root", "scx_sched_all", "scx_enable_state_var", "__scx_enabled", "scx_watchdog_interval",
          "scx_idle_global_masks", "scx_tasks_lock", "scx_watchdog_work"})
      variable(name);
    per_cpu_variable("scx_kick_syncs");
    per_cpu_variable("scx_locked_rq_state");
    places_["scx_vexit"] = kText + 0x1000;
    places_["scx_disable_irq_workfn"] = kText + 0x2000;
    places_["scx_disable_workfn"] = kText + 0x3000;
  }
  if (legacy) {
    for (const char* name : {"scx_ops_enable_state_var", "__scx_ops_enabled", "scx_exit_info", "global_dsqs",
                             "dsq_hash", "scx_watchdog_timeout", "scx_ops_bypass_depth", "scx_exit_kind",
                             "scx_dsp_ctx", "idle_masks", "scx_kick_cpus_pnt_seqs"})
      variable(name);
    places_["scx_ops"] = next += 0x400;
    per_cpu_variable("event_stats_cpu");
    places_["scx_ops_exit_kind"] = kText + 0x1000;
    places_["scx_ops_error_irq_workfn"] = kText + 0x2000;
    places_["scx_ops_disable_workfn"] = kText + 0x3000;
  }
  for (const std::string& name : options_.without) places_.erase(name);
  SymbolTable::Builder builder(places_.size());
  for (const auto& [name, address] : symbol_list()) {
    if (!builder.add(name, address)) misuse("no symbol " + name);
  }
  symbols_ = std::move(builder).finish(options_.source, "a test", {kText, kText + 0x400000});
}

void FakeGuest::map_memory() {
  mock_.add_ram(Gpa(kImagePa), kImageBytes);
  mock_.add_ram(Gpa(kHeapPa), options_.heap);
  const std::uint64_t end = kHeapPa + options_.heap;
  PageTableBuilder tables(mock_, page_tables(), PagingLevels::kFour);
  using Page = PageTableBuilder::Page;
  for (std::uint64_t at = 0; at < kImageBytes; at += std::uint64_t{2} << 20)
    tables.map(Kva(kText + at), Gpa(kImagePa + at), Page::k2MiB);
  for (std::uint64_t at = 0; at < end; at += std::uint64_t{1} << 30)
    tables.map(kDirectMap + at, Gpa(at), Page::k1GiB);
  memory_.emplace(mock_.memory(),
                  KernelLayout{.direct_map = KernelLayout::DirectMap{.base = kDirectMap, .size = end},
                               .image = KernelLayout::Image{.begin = Kva(kText),
                                                            .size = kImageBytes,
                                                            .map_base = Kva(0xffffffff80000000),
                                                            .physical_base = 0},
                               .page_tables = tables.walk()});
}

Gpa FakeGuest::gpa(Kva kva) {
  ReadBudget budget(1 << 16, 100);
  const auto place = memory_->translate(kva, budget);
  if (!place) misuse(place.error().to_string());
  return *place;
}

Kva FakeGuest::alloc(std::size_t bytes, std::size_t align) {
  next_ += (align - next_.value() % align) % align;
  const Kva at = next_;
  next_ += bytes;
  if (next_ - kHeap > options_.heap) misuse("the heap is full");
  return at;
}

Kva FakeGuest::text(std::string_view text) {
  const Kva at = alloc(text.size() + 1);
  mock_.write_text(gpa(at), text);
  return at;
}

// ---------------------------------------------------------------------------------------------------------------------
// Typed memory

Kva FakeGuest::make(std::string_view type, std::size_t extra) {
  const auto found = types_->find_struct(type);
  if (!found) misuse("no struct " + std::string(type));
  return alloc(found->size + extra);
}

Kva FakeGuest::at(Kva object, std::string_view type, std::string_view path) const {
  const auto place = types_->place(type, path);
  if (!place) misuse(place.error());
  return object + place->offset;
}

bool FakeGuest::has(std::string_view type, std::string_view path) const {
  return types_->place(type, path).has_value();
}

void FakeGuest::set(Kva object, std::string_view type, std::string_view path, std::uint64_t value) {
  const auto place = types_->place(type, path);
  if (!place) misuse(place.error());
  if (place->bit_size != 0) {
    const Kva byte = object + place->offset;
    const std::uint64_t mask = ((std::uint64_t{1} << place->bit_size) - 1) << place->bit_offset;
    const std::uint64_t old = mock_.value_at<std::uint8_t>(gpa(byte));
    return write(byte, static_cast<std::uint8_t>((old & ~mask) | (value << place->bit_offset & mask)));
  }
  if (place->type.size > 8) misuse(std::string(path) + " is no number");
  mock_.write(gpa(object + place->offset),
              std::as_bytes(std::span(&value, 1)).first(static_cast<std::size_t>(place->type.size)));
}

void FakeGuest::set_text(Kva object, std::string_view type, std::string_view path, std::string_view text) {
  const auto place = types_->place(type, path);
  if (!place || text.size() > place->type.size) misuse("no room for text");
  std::string padded(text);
  padded.resize(place->type.size);
  mock_.write_text(gpa(object + place->offset), padded);
}

std::uint64_t FakeGuest::get(Kva object, std::string_view type, std::string_view path) {
  const auto place = types_->place(type, path);
  if (!place) misuse(place.error());
  std::vector<std::byte> bytes(stored_bytes(*place));
  ReadBudget budget(64, 64);
  if (!memory_->read(object + place->offset, bytes, budget)) misuse("cannot read");
  return extract_stored(*place, bytes).value_or(0);
}

void FakeGuest::init_list(Kva head) {
  write(head, head);
  write(head + 8, head);
}

void FakeGuest::append(Kva head, Kva node) {
  const Kva last(read64(head + 8));
  write(last, node);
  write(node, head);
  write(node + 8, last);
  write(head + 8, node);
}

// ---------------------------------------------------------------------------------------------------------------------
// Globals and CPUs

Kva FakeGuest::symbol(std::string_view name) const {
  const auto address = symbols_.find(name);
  if (!address) misuse("no symbol " + std::string(name));
  return Kva(*address);
}

std::uint64_t FakeGuest::alloc_per_cpu(std::size_t bytes) {
  const std::uint64_t pointer = per_cpu_next_;
  per_cpu_next_ += (bytes + 15) / 16 * 16;
  if (per_cpu_next_ - per_cpu_begin_ > kPerCpuBytes) misuse("per-CPU areas are full");
  return pointer;
}

Kva FakeGuest::per_cpu(std::uint64_t pointer, std::uint32_t cpu) const {
  return units_[cpu] + (pointer - per_cpu_begin_);
}

Kva FakeGuest::rq(std::uint32_t cpu) const {
  return per_cpu(per_cpu_begin_ + 0x40, cpu);
}

void FakeGuest::make_cpus() {
  for (std::uint32_t cpu = 0; cpu < options_.cpus; ++cpu) units_.push_back(alloc(kPerCpuBytes, 4096));
  if (has_symbol("nr_cpu_ids")) write(symbol("nr_cpu_ids"), options_.cpus);
  if (!options_.per_cpu) return;
  for (std::uint32_t cpu = 0; cpu < options_.cpus && has_symbol("__per_cpu_offset"); ++cpu)
    write(symbol("__per_cpu_offset") + 8 * cpu, units_[cpu] - Kva(per_cpu_begin_));
  ReadBudget budget(1 << 16, 100);
  [[maybe_unused]] const auto loaded = kernel_->load_per_cpu_offsets({*types_, *memory_, budget});
}

void FakeGuest::make_globals() {
  if (has_symbol("jiffies_64")) write(symbol("jiffies_64"), kJiffies);
  if (has_symbol("nr_node_ids")) write(symbol("nr_node_ids"), options_.nodes);
  if (has_symbol("scx_tasks")) init_list(symbol("scx_tasks"));
  if (has_symbol("init_task")) init_list(at(init_task(), "task_struct", "tasks"));
  for (std::uint32_t cpu = 0; cpu < options_.cpus; ++cpu) {
    const Kva run_queue = rq(cpu);
    set(run_queue, "rq", "online", 1);
    set(run_queue, "rq", "cpu", cpu);
    set(run_queue, "rq", "clock", 1'000'000'000 + cpu);
    Kva idle;
    if (cpu == 0 && has_symbol("init_task")) {
      idle = init_task();
      set_text(idle, "task_struct", "comm", "swapper/0");
      set(idle, "task_struct", "cpus_mask.bits[0]", ~std::uint64_t{0});
    } else {
      // Those of the other CPUs are on scx_tasks, but not in the tree.
      idle = add_task({.pid = 0, .comm = "swapper/" + std::to_string(cpu), .in_tree = false});
    }
    set(idle, "task_struct", "sched_class", symbol("idle_sched_class").value());
    set(idle, "task_struct", "thread_info.cpu", cpu);
    idle_.push_back(idle);
    set(run_queue, "rq", "idle", idle.value());
    run_on(cpu, idle);
    if (!has_scx()) continue;
    init_list(at(run_queue, "rq", "scx.runnable_list"));
    init_list(at(run_queue, "rq", "scx.ddsp_deferred_locals"));
    init_dsq(at(run_queue, "rq", "scx.local_dsq"), 0x8000000000000002, Kva());
    if (!is_new()) continue;
    init_list(at(run_queue, "rq", "scx.deferred_reenq_locals"));
    init_dsq(at(run_queue, "rq", "scx.reject_dsq"), 0x8000000000000005, Kva());
    init_dsq(at(run_queue, "rq", "scx.rescue.dsq"), 0x8000000000000006, Kva());
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Dumps

ScxObjects FakeGuest::capture(CapturedMemory& into, const CaptureHints& hints, const CaptureLimits& limits) {
  if (!into.prepare(0)) misuse("no address space");
  return capture_scx(*plan_, *kernel_, *memory_, into, hints, limits);
}

ktstr::v1::Dump FakeGuest::dump(bool captured, const CaptureHints& hints, const CaptureLimits& limits) {
  CapturedMemory copies;
  const ScxObjects objects = capture(copies, hints, limits);
  copies.seal();
  KernelReader& reader = captured ? static_cast<KernelReader&>(copies) : *memory_;
  return inspect_scx(*plan_, *kernel_, reader, objects, input());
}

}  // namespace ktstr::test
