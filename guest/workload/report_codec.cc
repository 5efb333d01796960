#include "guest/workload/report_codec.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "common/cpu_set.h"
#include "common/frame_codec.h"
#include "guest/workload/reservoir.h"

namespace ktstr::guest {
namespace {

constexpr int kMaxSetupErrors = 8;
constexpr std::size_t kMaxTextLength = 512;

bool plausible(const ktstr::v1::WorkerReport& report) {
  return report.wake_latencies_ns_size() <= static_cast<int>(Reservoir::kCapacity) &&
         report.cpus_used_size() <= static_cast<int>(CpuSet::kMaxCpus) &&
         std::all_of(report.cpus_used().begin(), report.cpus_used().end(),
                     [](std::uint32_t cpu) { return cpu < CpuSet::kMaxCpus; }) &&
         report.setup_errors_size() <= kMaxSetupErrors &&
         std::all_of(report.setup_errors().begin(), report.setup_errors().end(),
                     [](const std::string& text) { return text.size() <= kMaxTextLength; }) &&
         report.exit_info().size() <= kMaxTextLength;
}

}  // namespace

bool commit_report(ktstr::v1::WorkerReport report, WorkerSlot& slot, std::span<std::byte> area) {
  if (report.ByteSizeLong() > area.size()) report.clear_wake_latencies_ns();
  const std::size_t length = report.ByteSizeLong();
  if (length > area.size() || !report.SerializeToArray(area.data(), static_cast<int>(area.size())))
    return false;
  slot.report_length = static_cast<std::uint32_t>(length);
  slot.report_crc = crc32c(area.first(length));
  slot.phase.store(static_cast<std::uint32_t>(WorkerPhase::kReported), std::memory_order_release);
  return true;
}

Expected<ktstr::v1::WorkerReport> read_report(const WorkerSlot& slot, std::span<const std::byte> area) {
  if (slot.phase.load(std::memory_order_acquire) != static_cast<std::uint32_t>(WorkerPhase::kReported)) {
    return fail(ErrorCode::kHost, "no report");
  }
  const std::size_t length = slot.report_length;
  if (length > area.size()) {
    return fail(ErrorCode::kHost, fmt::format("a report of {} bytes in an area of {}", length, area.size()));
  }
  // A copy: a worker that would not die may still be writing.
  const std::vector<std::byte> bytes(area.begin(), area.begin() + static_cast<std::ptrdiff_t>(length));
  if (crc32c(bytes) != slot.report_crc) {
    return fail(ErrorCode::kHost, fmt::format("a damaged report of {} bytes", length));
  }
  ktstr::v1::WorkerReport report;
  if (!report.ParseFromArray(bytes.data(), static_cast<int>(length))) {
    return fail(ErrorCode::kHost, fmt::format("{} bytes that are no report", length));
  }
  if (!plausible(report)) return fail(ErrorCode::kHost, "a report with impossible counts");
  return report;
}

}  // namespace ktstr::guest
