// A made-up kernel whose memory the input spoils where it likes: whatever is there, the walk through it and
// the reading of what was copied end soon, and nothing is made up.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/inspect/scx/fake_guest.h"

namespace {

using namespace ktstr;
using fuzz::check;
using fuzz::FuzzInput;
using test::FakeGuest;
using test::Shape;

constexpr std::size_t kHeap = std::size_t{1} << 18;
constexpr CaptureLimits kLimits = {.max_tasks = 500,
                                   .max_dsqs = 200,
                                   .max_scheds = 20,
                                   .bytes = std::uint64_t{8} << 20,
                                   .reads = 100'000,
                                   .stack_bytes = 4096};
constexpr std::size_t kMaxDump = std::size_t{32} << 20;

struct World {
  explicit World(Shape shape) : guest({.shape = shape, .cpus = 2, .heap = kHeap}) {
    for (std::int32_t pid = 1; pid < 6; ++pid) {
      const Kva task = guest.add_task({.pid = pid, .comm = "task"});
      places.push_back(task);
      guest.make_runnable(task, static_cast<std::uint32_t>(pid) % 2, 100);
      if (pid < 3) guest.queue(guest.local_dsq(0), task);
    }
    const Kva dsq = guest.add_user_dsq(3);
    guest.queue_vtime(dsq, {places[2], places[3], places[4]});
    guest.add_dsq_cursor(dsq);
    guest.fail_sched(guest.root(), 1025, "reason", "message");
    places.insert(places.end(), {dsq, guest.root(), guest.rq(0), guest.rq(1), guest.exit_info(guest.root()),
                                 Kva(guest.read64(guest.hash_of(guest.root()))), guest.symbol("scx_tasks"),
                                 guest.init_task(), guest.global_dsq(0), FakeGuest::kHeap});
    if (shape == Shape::kNew) {
      places.push_back(guest.add_sched("sub", guest.root()));
      places.push_back(guest.sched_cpu(guest.root(), 1));
    }
  }

  FakeGuest guest;
  std::vector<Kva> places;
};

// Pairs of a place and a value: small numbers, addresses of objects, poison, anything.
void spoil(World& world, FuzzInput& input, std::vector<std::pair<Kva, std::uint64_t>>& undo) {
  for (int i = 0; i < 200 && !input.empty(); ++i) {
    const std::uint64_t where = input.number(1) % (world.places.size() + 1);
    const std::uint64_t offset = input.number(2);
    const Kva at = where == world.places.size() ? FakeGuest::kHeap + offset * 4 % (kHeap - 8)
                                                : world.places[where] + offset % 4096 / 4 * 4;
    const std::uint64_t kind = input.number(1);
    std::uint64_t value = 0;
    if (kind < 120)
      value = (world.places[input.number(1) % world.places.size()] + input.number(2) % 2048 / 8 * 8).value();
    else if (kind < 180)
      value = input.number(1);
    else if (kind < 190)
      value = 0xdead000000000100 + input.number(1);
    else if (kind < 200)
      value = ~std::uint64_t{0} - input.number(1);
    else
      value = input.number(8);
    ReadBudget budget(64, 16);
    const auto old = world.guest.memory().read<std::uint64_t>(at, budget);
    if (!old) continue;
    undo.emplace_back(at, *old);
    world.guest.write(at, value);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static World* const worlds[] = {new World(Shape::kNew), new World(Shape::kLegacy)};
  static CapturedMemory copies;
  FuzzInput input(data, size);
  World& world = *worlds[input.number(1) % 2];
  const CaptureHints hints{.sched = Kva(input.number(1) == 0 ? input.number(8) : 0), .stack_pointers = {}};
  std::vector<std::pair<Kva, std::uint64_t>> undo;
  spoil(world, input, undo);
  const ScxObjects objects = world.guest.capture(copies, hints, kLimits);
  copies.seal();
  check(objects.tasks.size() <= kLimits.max_tasks, "no more tasks than were wanted");
  check(objects.dsqs.size() <= kLimits.max_dsqs, "no more queues than were wanted");
  check(objects.scheds.size() <= kLimits.max_scheds, "no more schedulers than were wanted");
  check(objects.flaws.size() <= FaultLog::kMax, "a bounded list of flaws");
  check(copies.bytes() <= kLimits.bytes, "no more bytes than the budget");
  const auto dump =
      inspect_scx(world.guest.plan(), world.guest.kernel(), copies, objects, world.guest.input());
  check(dump.tasks_size() == static_cast<int>(objects.tasks.size()), "a message for each task");
  check(dump.faults_size() <= static_cast<int>(FaultLog::kMax), "a bounded list of faults");
  check(dump.ByteSizeLong() < kMaxDump, "a dump of bounded size");
  for (auto one = undo.rbegin(); one != undo.rend(); ++one) world.guest.write(one->first, one->second);
  return 0;
}
