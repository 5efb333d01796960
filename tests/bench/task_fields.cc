#include "tests/bench/task_fields.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "host/inspect/walk/list.h"

namespace ktstr {
namespace {

// Members with less than this between them are copied in one piece.
constexpr std::uint64_t kGap = 128;
constexpr std::uint64_t kMostTasks = 1'000'000;

std::unexpected<Error> unreadable(const std::string& what) {
  return fail(ErrorCode::kHost, what + " cannot be read");
}

}  // namespace

Expected<TaskFields> TaskFields::create(const KernelTypes& types, const std::vector<std::string>& fields) {
  TaskFields made;
  std::vector<std::pair<std::string, std::string>> wanted;
  for (const std::string& field : fields) wanted.emplace_back("task_struct", field);
  wanted.insert(wanted.end(), {{"task_struct", "tasks"},
                               {"task_struct", "thread_node"},
                               {"task_struct", "signal"},
                               {"signal_struct", "thread_head"},
                               {"rq", "idle"}});
  std::vector<Place> places;
  for (const auto& [type, path] : wanted) {
    auto place = types.place(type, path);
    if (!place) return fail(ErrorCode::kKernelLacks, place.error());
    places.push_back(std::move(*place));
  }
  Place* const own[] = {&made.tasks_, &made.thread_node_, &made.signal_, &made.thread_head_, &made.idle_};
  for (std::size_t i = 0; i < std::size(own); ++i) *own[i] = places[fields.size() + i];
  places.resize(fields.size());
  made.places_ = places;
  std::ranges::sort(places, {}, &Place::offset);
  for (const Place& place : places) {
    const std::uint64_t end = place.offset + stored_bytes(place);
    if (made.spans_.empty() || place.offset > made.spans_.back().end + kGap)
      made.spans_.push_back({place.offset, end});
    made.spans_.back().end = std::max(made.spans_.back().end, end);
    made.size_ = std::max(made.size_, end);
  }
  return made;
}

Expected<> TaskFields::read_task(Kva task, KernelMemory& memory, ReadBudget& budget,
                                 std::vector<std::byte>& copy, Values& to) const {
  for (const Span& span : spans_) {
    const auto part = std::span(copy).subspan(span.begin, span.end - span.begin);
    if (!memory.read(task + span.begin, part, budget)) return unreadable("a task");
  }
  ++to.tasks;
  for (const Place& place : places_) {
    if (const auto number = extract(place, copy)) {
      to.numbers.push_back(*number);
      continue;
    }
    // A name ends at its first zero; behind it may be the rest of an earlier one.
    std::uint64_t sum = 0;
    for (const std::byte byte : std::span(copy).subspan(place.offset, stored_bytes(place))) {
      if (byte == std::byte{0}) break;
      sum += std::to_integer<std::uint64_t>(byte);
    }
    to.numbers.push_back(sum);
  }
  return {};
}

Expected<TaskFields::Values> TaskFields::read(const GuestKernel& kernel, KernelMemory& memory) const {
  ReadBudget budget(std::uint64_t{1} << 32, std::uint64_t{1} << 32);
  Values values;
  std::vector<std::byte> copy(size_);
  const auto init = kernel.symbol("init_task");
  if (!init) return unreadable("init_task");
  const auto leaders = walk_list(memory, budget, *init + tasks_.offset, kMostTasks);
  if (leaders.broken) return unreadable("the list of processes");
  for (const Kva node : leaders.nodes) {
    const auto signal =
        memory.KernelReader::read<std::uint64_t>(node - tasks_.offset + signal_.offset, budget);
    if (!signal) return unreadable("a process");
    const auto threads = walk_list(memory, budget, Kva(*signal) + thread_head_.offset, kMostTasks);
    if (threads.broken) return unreadable("a list of threads");
    for (const Kva thread : threads.nodes) {
      if (auto done = read_task(thread - thread_node_.offset, memory, budget, copy, values); !done)
        return std::unexpected(std::move(done.error()));
    }
  }
  for (const std::uint32_t cpu : kernel.cpus()) {
    const auto rq = kernel.per_cpu("runqueues", cpu);
    const auto idle =
        rq ? memory.KernelReader::read<std::uint64_t>(*rq + idle_.offset, budget) : FaultOr<std::uint64_t>(0);
    if (!idle) return unreadable("an idle task");
    if (*idle == 0) continue;
    if (auto done = read_task(Kva(*idle), memory, budget, copy, values); !done)
      return std::unexpected(std::move(done.error()));
  }
  return values;
}

}  // namespace ktstr
