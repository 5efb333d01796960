// How a worker's report crosses from the worker to PID 1: serialised into its shared report area, with its
// length and checksum in the slot, committed by the slot's phase.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/error.h"
#include "guest/workload/shared_area.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// Writes `report` into `area` and commits it in `slot`. A report that does not fit goes without its latency
// samples. Called in the worker; returns false when even that did not fit (nothing is committed then).
bool commit_report(ktstr::v1::WorkerReport report, WorkerSlot& slot, std::span<std::byte> area);

// Reads back what was committed. A worker that went wild may have written anything anywhere: length,
// checksum, encoding and every count are checked. Error kHost: nothing committed, or not a sound report.
Expected<ktstr::v1::WorkerReport> read_report(const WorkerSlot& slot, std::span<const std::byte> area);

}  // namespace ktstr::guest
