#include "guest/workload/shared_area.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#include "guest/scenario/supervisor.h"
#include "guest/workload/futex.h"

namespace ktstr::guest {
namespace {

constexpr std::size_t kPage = 4096;

std::size_t page_up(std::size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

Expected<Mapping> shared_memory(std::size_t size) {
  return Mapping::map(-1, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE);
}

}  // namespace

Gate::Gate(Mapping mapping)
    : mapping_(std::move(mapping)), words_(new (mapping_.mutable_bytes().data()) Words{}) {}

Expected<std::shared_ptr<Gate>> Gate::create() {
  auto mapping = shared_memory(sizeof(Words));
  if (!mapping) return propagate(std::move(mapping.error()), "making the workers' gate");
  return std::shared_ptr<Gate>(new Gate(*std::move(mapping)));
}

void Gate::open() {
  if (is_open()) return;
  words_->opened_at_ns.store(monotonic_now().count(), std::memory_order_relaxed);
  words_->open.store(1, std::memory_order_release);
  futex_wake_all(words_->open);
}

bool Gate::is_open() const {
  return words_->open.load(std::memory_order_acquire) != 0;
}

std::chrono::nanoseconds Gate::opened_at() const {
  return std::chrono::nanoseconds(is_open() ? words_->opened_at_ns.load(std::memory_order_relaxed) : 0);
}

void Gate::wait() const {
  while (!is_open()) futex_wait(words_->open, 0);
}

SharedArea::SharedArea(Mapping mapping, std::size_t workers, std::size_t reports_offset)
    : mapping_(std::move(mapping)), workers_(workers) {
  std::byte* const base = mapping_.mutable_bytes().data();
  header_ = new (base) Header{};
  // Zero pages are value-initialised slots already; touching them all here would cost a page fault for
  // every 64.
  slots_ = reinterpret_cast<WorkerSlot*>(base + sizeof(WorkerSlot));
  reports_ = mapping_.mutable_bytes().subspan(reports_offset);
}

Expected<SharedArea> SharedArea::create(std::size_t workers) {
  static_assert(sizeof(Header) <= sizeof(WorkerSlot));
  const std::size_t reports_offset = page_up(sizeof(WorkerSlot) * (workers + 1));
  auto mapping = shared_memory(reports_offset + workers * kReportCapacity);
  if (!mapping) return propagate(std::move(mapping.error()), "making the workers' shared memory");
  return SharedArea(*std::move(mapping), workers, reports_offset);
}

}  // namespace ktstr::guest
