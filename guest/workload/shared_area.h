// The memory that workers share with PID 1.
//
// Why shared memory and not a pipe for each worker: a full report has about 40 KB and a default pipe takes 64
// KiB, but more than pipe-user-pages-soft (1,024 pipes) shrinks new pipes to a page, growing one is refused
// without CAP_SYS_RESOURCE, every pipe costs PID 1 a descriptor, a worker that finds its pipe full blocks
// until PID 1 gets round to reading, and PID 1 needs a deadline on every read from a child that may have
// stopped in the middle. A slot in shared memory never blocks either side, costs no copy through the kernel,
// and what a dead worker leaves behind is simply not committed.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/error.h"
#include "common/mapping.h"

namespace ktstr::guest {

// The one place where all workers of a step wait once they are set up, so that they start at the same instant
// and set-up is outside of what is measured.
class Gate {
 public:
  static Expected<std::shared_ptr<Gate>> create();

  // Lets everybody through and notes the time; the second call does nothing.
  void open();
  bool is_open() const;
  // CLOCK_MONOTONIC of the opening; 0 before.
  std::chrono::nanoseconds opened_at() const;
  // For workers: returns once the gate is open.
  void wait() const;

 private:
  struct Words {
    std::atomic<std::uint32_t> open;
    std::atomic<std::int64_t> opened_at_ns;
  };
  explicit Gate(Mapping mapping);

  Mapping mapping_;
  Words* words_;
};

// Where a worker is. Only ever grows.
enum class WorkerPhase : std::uint32_t {
  kStarting = 0,
  kReady = 1,     // set up, waits at the gate
  kReported = 2,  // its report is committed
};

// One worker's words; PID 1 reads them at any time. A cache line each, because a spinning worker stores
// `iterations` about a million times a second.
struct alignas(64) WorkerSlot {
  std::atomic<std::uint32_t> admitted;  // 1: the worker is in its cgroup (fallback without CLONE_INTO_CGROUP)
  std::atomic<std::uint32_t> stop;      // 1: finish. Also the futex on which sleeping work types sleep.
  std::atomic<std::uint32_t> phase;     // WorkerPhase
  std::uint32_t report_length;
  std::uint32_t report_crc;
  std::atomic<std::uint64_t> iterations;  // outer loop count so far
};

// The slots and report areas of a worker group.
class SharedArea {
 public:
  // 10,000 latencies of at most 10 bytes, 8,192 CPU numbers of at most 2 bytes and some small fields fit.
  static constexpr std::size_t kReportCapacity = std::size_t{128} << 10;

  // Words of the whole group.
  struct Header {
    std::atomic<std::uint32_t> arrivals;      // workers that became ready; then those that reported
    std::atomic<std::uint32_t> expected;      // arrival number that rings PID 1's bell
    std::atomic<std::int64_t> stopped_at_ns;  // CLOCK_MONOTONIC of the stop, 0 before
  };

  // Address space for `workers` workers; memory is only used as it is touched.
  static Expected<SharedArea> create(std::size_t workers);

  std::size_t workers() const { return workers_; }
  Header& header() const { return *header_; }
  WorkerSlot& slot(std::size_t worker) const { return slots_[worker]; }
  std::span<std::byte> report(std::size_t worker) const {
    return reports_.subspan(worker * kReportCapacity, kReportCapacity);
  }

 private:
  SharedArea(Mapping mapping, std::size_t workers, std::size_t reports_offset);

  Mapping mapping_;
  std::size_t workers_;
  Header* header_;
  WorkerSlot* slots_;
  std::span<std::byte> reports_;
};

}  // namespace ktstr::guest
