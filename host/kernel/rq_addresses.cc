#include "host/kernel/rq_addresses.h"

namespace ktstr {

RqAddresses compute_rq_addresses(std::uint64_t runqueues, std::span<const std::uint64_t> per_cpu_offsets,
                                 std::uint64_t page_offset) {
  RqAddresses rqs;
  rqs.kvas.reserve(per_cpu_offsets.size());
  rqs.pas.reserve(per_cpu_offsets.size());
  for (const std::uint64_t offset : per_cpu_offsets) {
    const Kva kva(runqueues + offset);
    rqs.kvas.push_back(kva);
    rqs.pas.emplace_back(kva.value() - page_offset);
  }
  return rqs;
}

ScxAnchors compute_scx_anchors(const ScxSymbols& symbols,
                               std::optional<std::span<const std::uint64_t>> per_cpu_offsets,
                               std::uint64_t page_offset) {
  ScxAnchors anchors;
  if (per_cpu_offsets) anchors.rqs = compute_rq_addresses(symbols.runqueues, *per_cpu_offsets, page_offset);
  anchors.scx_root = symbols.scx_root.value_or(Kva());
  anchors.scx_tasks = symbols.scx_tasks.value_or(Kva());
  return anchors;
}

}  // namespace ktstr
