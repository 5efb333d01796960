#include "host/run/freezer.h"

#include <utility>

#include <fmt/format.h>

#include "common/utc_time.h"
#include "host/memory/core_writer.h"
#include "host/report/dump/dump_file.h"
#include "host/report/dump/safe_text.h"
#include "host/run/core_registers.h"

namespace ktstr {
namespace {

constexpr int kShownFindings = 5;

// What the scheduler whose exit was trapped says, or would have said.
std::string exit_message(const ktstr::v1::Dump& dump) {
  for (const auto& sched : dump.scheds()) {
    if (sched.address() == dump.header().trap_sched() || dump.header().trap_sched() == 0)
      return sched.exit_info().msg();
  }
  return {};
}

}  // namespace

void Freezer::note(const std::string& text) {
  warnings_.push_back(text);
  status_.event(text);
}

Expected<void> Freezer::make_dumper() {
  if (dumper_) return {};
  auto dumper =
      ScxDumper::create(prepared_.kernel, {request_.vmlinux, request_.system_map}, prepared_.topology.cpus());
  if (!dumper) return std::unexpected(std::move(dumper.error()));
  dumper_ = std::move(*dumper);
  return {};
}

Expected<void> Freezer::prepare() {
  const bool asked = request_.on_freeze == RunRequest::OnFreeze::kStop || request_.core ||
                     request_.freeze_at != RunRequest::FreezeAt::kClaim || !request_.vmlinux.empty() ||
                     !request_.system_map.empty();
  const bool traps = prepared_.plan.has_scheduler() && request_.on_freeze != RunRequest::OnFreeze::kOff;
  if (!traps && !asked) return {};
  auto made = make_dumper();
  if (made || asked) return made;
  note("no dump when the scheduler fails: " + made.error().to_string());
  return {};
}

// The payload is entered where it was linked; the decompressor moves the kernel unless it is told not to.
bool Freezer::runs_where_linked(const Machine& machine) const {
  const std::string words = " " + machine.command_line().text + " ";
  return prepared_.enter_payload || words.find(" nokaslr ") != std::string::npos;
}

Expected<void> Freezer::begin(Machine& machine) {
  end();
  machine_ = &machine;
  coordinator_.reset();
  facts_.Clear();
  if (!dumper_) return {};
  dumper_->forget_location();
  coordinator_ = std::make_unique<FreezeCoordinator>(
      machine, *dumper_,
      FreezeCoordinator::Options{
          .stop_on_trap = request_.on_freeze == RunRequest::OnFreeze::kStop,
          .before_kernel_dump = request_.freeze_at == RunRequest::FreezeAt::kDump,
          .claim_only = record_ != nullptr && request_.freeze_at == RunRequest::FreezeAt::kClaim,
          .no_kaslr = runs_where_linked(machine)},
      FreezeCoordinator::Receivers{
          .on_dump = [this](std::uint32_t number, ktstr::v1::Dump&& dump) { write(number, std::move(dump)); },
          .on_stopped = request_.core
                            ? [this](std::uint32_t number,
                                     const StoppedGuest& guest) { return write_core_file(number, guest); }
                            : std::function<Expected<void>(std::uint32_t, const StoppedGuest&)>(),
          .on_note = [this](const std::string& text) { note(text); },
          .on_disturbance =
              [this](const std::string& why) {
                if (record_ != nullptr) record_->disturbed(why);
              }});
  const bool traps = prepared_.plan.has_scheduler() && request_.on_freeze != RunRequest::OnFreeze::kOff;
  return traps ? coordinator_->arm_before_start() : Expected<void>();
}

void Freezer::on_hello(const ktstr::v1::GuestFacts& facts) {
  facts_ = facts;
  if (!coordinator_) return;
  coordinator_->set_vmcoreinfo(Gpa(facts.vmcoreinfo_gpa()), facts.vmcoreinfo_size());
  const bool traps = prepared_.plan.has_scheduler() && request_.on_freeze != RunRequest::OnFreeze::kOff;
  if (!traps || coordinator_->armed()) return;
  if (record_ != nullptr)
    return note(
        "no dump when the scheduler fails: with --kaslr traps can be set only by stopping the guest, which "
        "a deterministic run does not allow");
  if (auto armed = coordinator_->arm_running(); !armed)
    note("no dump when the scheduler fails: " + armed.error().to_string());
}

bool Freezer::on_trap(Machine& machine, const MachineEvent& event) {
  if (!coordinator_) {
    if (auto resumed = machine.resume(); !resumed) note("cannot resume: " + resumed.error().to_string());
    return true;
  }
  const bool go_on = coordinator_->on_trap(event);
  if (!go_on) stopped_by_ = printable_utf8(coordinator_->failure());
  return go_on;
}

void Freezer::dump(const std::string& reason, bool resume) {
  auto done = make_dumper();
  if (done && !coordinator_) {
    const ktstr::v1::GuestFacts facts = facts_;
    done = begin(*machine_);
    facts_ = facts;
    if (coordinator_) coordinator_->set_vmcoreinfo(Gpa(facts_.vmcoreinfo_gpa()), facts_.vmcoreinfo_size());
  }
  if (done) done = coordinator_->dump_now(reason, resume);
  if (!done) note(fmt::format("no dump ({}): {}", reason, done.error().to_string()));
}

void Freezer::dump_at_end(const std::string& reason) {
  if (request_.on_freeze != RunRequest::OnFreeze::kOff) dump(reason, false);
}

void Freezer::end() {
  if (coordinator_) {
    coordinator_->finish();
    numbered_ += coordinator_->dumps();
  }
  coordinator_.reset();
}

Expected<void> Freezer::write_core_file(std::uint32_t number, const StoppedGuest& guest) {
  CoreContents contents;
  for (const RamRegion& region : machine_->ram())
    contents.ranges.push_back({Gpa(region.gpa), region.host.size()});
  for (const auto& one : guest.registers)
    contents.vcpus.push_back(one ? to_core(*one) : VcpuRegistersOfCore());
  const std::string vmcoreinfo = coordinator_->vmcoreinfo_text();
  contents.vmcoreinfo = vmcoreinfo;
  contents.direct_map = dumper_->location().page_offset_base;
  const auto path = folder_->path() / fmt::format("dump-{}.core", number + numbered_);
  return write_core(path.string(), guest.memory, contents);
}

void Freezer::write(std::uint32_t number, ktstr::v1::Dump&& dump) {
  number += numbered_;
  auto& header = *dump.mutable_header();
  header.set_taken_at(rfc3339_now());
  header.set_run_id(folder_->id());
  header.set_ktstr_vm_version(request_.version);
  auto& record = records_.emplace_back();
  record.set_number(number);
  record.set_reason(header.reason());
  record.set_trap(header.trap_exit_kind_name().empty() ? header.trap() : header.trap_exit_kind_name());
  record.set_message(printable_utf8(exit_message(dump)));
  record.set_frozen_ns(header.frozen_ns());
  record.set_faults(header.faults());
  record.set_tasks(static_cast<std::uint32_t>(dump.tasks_size()));
  record.set_incomplete(header.incomplete());
  for (int i = 0; i < dump.findings_size() && i < kShownFindings; ++i)
    record.add_findings(dump.findings(i).text());
  if (auto written = write_dump(folder_->path().string(), number, dump); !written) {
    record.set_incomplete(written.error().to_string());
    return note(fmt::format("dump {} is incomplete: {}", number, written.error().to_string()));
  }
  status_.event(fmt::format("dump {}: {} tasks, {} queues, frozen for {:.1f} ms: {}", number,
                            dump.tasks_size(), dump.dsqs_size(),
                            static_cast<double>(header.frozen_ns()) / 1e6,
                            (folder_->path() / fmt::format("dump-{}.txt", number)).string()));
}

}  // namespace ktstr
