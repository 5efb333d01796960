#include "host/run/host_use_options.h"

#include <set>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/machine/host_cpus.h"

namespace ktstr {
namespace {

Expected<std::vector<std::uint32_t>> resolve_pins(const std::string& text, std::uint32_t vcpus,
                                                  const CpuSet& allowed) {
  auto cpus = text == "all" ? Expected<CpuSet>(allowed) : CpuSet::parse(text);
  if (!cpus) return propagate(std::move(cpus.error()), "--pin-vcpus");
  if (!cpus->is_subset_of(allowed)) {
    return fail(ErrorCode::kHost, fmt::format("--pin-vcpus {}: this process may use the host's CPUs {} only",
                                              quote(text), allowed.to_string()));
  }
  if (cpus->size() < vcpus || (cpus->size() > vcpus && text != "all")) {
    return fail(ErrorCode::kUsage, fmt::format("--pin-vcpus {}: {} host CPUs for {} vCPUs; give one for each",
                                               quote(text), cpus->size(), vcpus));
  }
  std::vector<std::uint32_t> pins(cpus->cpus().begin(), cpus->cpus().end());
  pins.resize(vcpus);
  return pins;
}

const char* first_given(const RunRequest& request) {
  if (request.pages != RamPages::kNormal) return "--pages";
  if (!request.pin_vcpus.empty()) return "--pin-vcpus";
  return request.vcpu_fifo ? "--vcpu-fifo" : nullptr;
}

}  // namespace

Expected<HostUse> resolve_host_use(const RunRequest& request, AccelChoice kind, std::uint32_t vcpus) {
  const auto allowed = affinity_of_this_process();
  if (!allowed) return std::unexpected(allowed.error());
  return resolve_host_use(request, kind, vcpus, *allowed);
}

Expected<HostUse> resolve_host_use(const RunRequest& request, AccelChoice kind, std::uint32_t vcpus,
                                   const CpuSet& allowed) {
  const char* const given = first_given(request);
  if (given == nullptr) return HostUse{};
  if (!machine_abilities(kind).host_use) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} is for the kvm machine, and this run's is {}; ktstr-vm doctor says why",
                            given, accel_name(kind)));
  }
  HostUse use = {.pages = request.pages, .fifo_priority = request.vcpu_fifo.value_or(0)};
  if (request.pin_vcpus.empty()) return use;
  auto pins = resolve_pins(request.pin_vcpus, vcpus, allowed);
  if (!pins) return std::unexpected(std::move(pins.error()));
  use.vcpu_cpus = *std::move(pins);
  return use;
}

void describe_host_use(const HostUse& use, ktstr::v1::MachineSpec& machine) {
  if (use == HostUse{}) return;
  auto* described = machine.mutable_host_use();
  switch (use.pages) {
    case RamPages::kNormal:
      break;
    case RamPages::kTransparent:
      described->set_pages(ktstr::v1::MachineSpec::HostUse::TRANSPARENT);
      break;
    case RamPages::kHuge:
      described->set_pages(ktstr::v1::MachineSpec::HostUse::HUGE);
      break;
  }
  for (const std::uint32_t cpu : use.vcpu_cpus) described->add_vcpu_cpus(cpu);
  described->set_fifo_priority(static_cast<std::uint32_t>(use.fifo_priority));
}

}  // namespace ktstr
