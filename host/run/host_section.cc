#include "host/run/host_section.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "common/utc_time.h"
#include "host/machine/host_cpus.h"

namespace ktstr {
namespace {

using std::chrono::nanoseconds;

void add_phase(ktstr::v1::HostSection& host, const std::string& name, nanoseconds time) {
  if (time <= nanoseconds(0)) return;
  auto* phase = host.add_phases();
  phase->set_name(name);
  phase->set_ns(static_cast<std::uint64_t>(time.count()));
}

void add_counters(const std::vector<MachineStatistics::Counter>& counters,
                  google::protobuf::RepeatedPtrField<ktstr::v1::Counter>& to) {
  for (const auto& counter : counters) {
    auto* one = to.Add();
    one->set_name(counter.name);
    one->set_value(counter.value);
  }
}

}  // namespace

void add_run_phases(ktstr::v1::HostSection& host, const Attempt& attempt, bool clone) {
  const Attempt::Milestones& at = attempt.milestones();
  const auto& facts = attempt.session().guest().facts();
  const nanoseconds init(
      static_cast<std::int64_t>(facts.hello_ns() - std::min(facts.init_start_ns(), facts.hello_ns())));
  if (at.hello > nanoseconds(0) && clone) {
    add_phase(host, "clone", at.hello);
  } else if (at.hello > nanoseconds(0)) {
    add_phase(host, "machine", at.first_console);
    add_phase(host, "kernel", at.hello - at.first_console - init);
    add_phase(host, "init", init);
  }
  if (at.hello > nanoseconds(0)) add_phase(host, "plan", at.plan_accepted - at.hello);
  if (at.scheduler_started > nanoseconds(0) && at.scenario_start > nanoseconds(0)) {
    add_phase(host, "scheduler", at.scenario_start - at.scheduler_started);
  }
  if (at.scenario_start > nanoseconds(0) && at.scenario_end > nanoseconds(0)) {
    add_phase(host, "scenario", at.scenario_end - at.scenario_start);
  }
  if (at.scenario_end > nanoseconds(0)) add_phase(host, "finish", at.end - at.scenario_end);
}

void describe_statistics(const Attempt& attempt, ktstr::v1::MachineStatistics& statistics) {
  const auto in_ns = [](nanoseconds time) { return static_cast<std::uint64_t>(time.count()); };
  for (const auto& vcpu : attempt.statistics().vcpus) {
    auto* one = statistics.add_vcpus();
    one->set_ran_ns(in_ns(vcpu.ran));
    one->set_waited_ns(in_ns(vcpu.waited));
    add_counters(vcpu.counters, *one->mutable_kvm());
  }
  add_counters(attempt.statistics().exits, *statistics.mutable_exits());
  add_counters(attempt.statistics_at_hello().exits, *statistics.mutable_exits_to_hello());
  if (const auto first = attempt.statistics().first_run)
    statistics.set_first_run_monotonic_ns(in_ns(first->time_since_epoch()));
}

void describe_machine(ktstr::v1::HostSection& host, const Machine& machine, const Prepared& prepared) {
  host.set_machine(std::string(machine.kind()));
  host.set_machine_reason(prepared.machine_choice.reason);
  const Machine::Emulator emulator = machine.emulator();
  host.set_emulator(emulator.path);
  host.set_emulator_version(emulator.version);
  host.clear_emulator_argv();
  for (const std::string& argument : emulator.argv) host.add_emulator_argv(argument);
  for (const std::string& warning : machine.warnings()) host.add_warnings(warning);
}

void add_later_warnings(ktstr::v1::HostSection& host, const Machine& machine) {
  const auto& known = host.warnings();
  for (const std::string& warning : machine.warnings())
    if (std::find(known.begin(), known.end(), warning) == known.end()) host.add_warnings(warning);
}

void describe_host(ktstr::v1::HostSection& host, const RunRequest& request, const Prepared& prepared) {
  host.set_started_at(rfc3339_now());
  for (const std::string& argument : request.argv) host.add_argv(argument);
  for (const auto& phase : prepared.phases) *host.add_phases() = phase;
  for (const std::string& warning : prepared.warnings) host.add_warnings(warning);
  std::error_code ignored;
  host.set_working_directory(std::filesystem::current_path(ignored).string());
  host.set_initramfs_bytes(prepared.initramfs.size);
  host.set_host_cpus(std::max(1U, std::thread::hardware_concurrency()));
  double load = 0;
  if (::getloadavg(&load, 1) == 1) host.set_load_average(load);
  host.set_usable_cpus(usable_host_cpus());
  host.set_overcommitted(prepared.topology.cpus() > host.usable_cpus());
}

}  // namespace ktstr
