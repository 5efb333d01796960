#include "guest/scenario/population.h"

#include <utility>

#include <fmt/format.h>

namespace ktstr::guest {

Population::Population(const Surroundings& surroundings, const Defs& defs)
    : defs_(defs), cpus_(surroundings.cpus), cgroups_(surroundings.ops, surroundings.supervisor) {}

Expected<std::unique_ptr<Population>> Population::make(const Surroundings& surroundings, const Defs& defs,
                                                       std::shared_ptr<Gate> gate) {
  std::unique_ptr<Population> population(new Population(surroundings, defs));
  if (auto made = population->make_cgroups(surroundings); !made)
    return std::unexpected(std::move(made.error()));
  WorkerGroup::Options options;
  for (const ktstr::v1::CgroupDef& def : defs) options.cgroups.push_back(&def);
  options.cpus = surroundings.cpus;
  options.seed = surroundings.seed;
  options.jitter_seed = surroundings.jitter_seed;
  options.gate = std::move(gate);
  options.patience = surroundings.patience;
  auto workers = WorkerGroup::spawn(std::move(options), surroundings.ops, surroundings.supervisor);
  if (!workers) return std::unexpected(std::move(workers.error()));
  population->workers_ = *std::move(workers);
  return population;
}

Expected<> Population::make_cgroups(const Surroundings& surroundings) {
  for (const ktstr::v1::CgroupDef& def : defs_) {
    if (auto created = cgroups_.create(def.name()); !created) return created;
    if (!def.cpuset().empty()) {
      if (auto set = surroundings.ops.set(def.name(), "cpuset.cpus", def.cpuset()); !set) return set;
    }
    if (def.has_cpu_weight()) {
      if (auto set = surroundings.ops.set(def.name(), "cpu.weight", std::to_string(def.cpu_weight())); !set)
        return set;
    }
  }
  return {};
}

void Population::collect(WorkerGroup::How how, const char* because) {
  results_ = workers_->collect(how, because);
}

JudgedStep Population::judged(std::string step_name) const {
  JudgedStep step;
  step.name = std::move(step_name);
  step.cpus = cpus_;
  for (int i = 0; i < defs_.size() && static_cast<std::size_t>(i) < results_.size(); ++i) {
    step.cgroups.push_back({&defs_[i], &results_[static_cast<std::size_t>(i)]});
  }
  return step;
}

std::vector<std::string> Population::setup_errors() const {
  std::vector<std::string> errors;
  for (const ktstr::v1::CgroupResult& cgroup : results_) {
    std::string first;
    int others = -1;
    for (const ktstr::v1::WorkerReport& worker : cgroup.workers()) {
      if (worker.setup_errors().empty()) continue;
      if (++others == 0) first = worker.setup_errors(0);
    }
    if (others < 0) continue;
    errors.push_back(fmt::format("workers of cgroup '{}': {}{}", cgroup.cgroup(), first,
                                 others > 0 ? fmt::format(" (and {} more workers)", others) : std::string()));
  }
  return errors;
}

std::vector<std::string> Population::remove_cgroups() {
  std::vector<std::string> texts;
  for (const Error& error : cgroups_.remove_all()) texts.push_back(error.to_string());
  return texts;
}

}  // namespace ktstr::guest
