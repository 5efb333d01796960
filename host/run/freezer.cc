#include "host/run/freezer.h"

#include <ctime>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "host/memory/core_writer.h"
#include "host/report/dump/dump_file.h"

namespace ktstr {
namespace {

constexpr int kShownFindings = 5;

// The text in the note that the guest has pointed out; empty when it is not there.
std::string vmcoreinfo_text(const GuestMemory& memory, const ktstr::v1::GuestFacts& facts) {
  if (facts.vmcoreinfo_size() == 0 || facts.vmcoreinfo_size() > Vmcoreinfo::kMaxSize) return {};
  std::string bytes(facts.vmcoreinfo_size(), '\0');
  ReadBudget budget(bytes.size(), 100);
  if (!memory.read(Gpa(facts.vmcoreinfo_gpa()), std::as_writable_bytes(std::span(bytes)), budget)) return {};
  const std::size_t begin = bytes.find("OSRELEASE=");
  if (begin == std::string::npos) return {};
  const std::size_t end = bytes.find('\0', begin);
  return bytes.substr(begin, end == std::string::npos ? end : end - begin);
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
  if (!prepared_.plan.has_scheduler() || request_.on_freeze == RunRequest::OnFreeze::kOff) return {};
  auto made = make_dumper();
  if (made || asked) return made;
  note("no dump when the scheduler fails: " + made.error().to_string());
  return {};
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
          .no_kaslr = prepared_.enter_payload},
      FreezeCoordinator::Receivers{
          .on_dump = [this](std::uint32_t number, ktstr::v1::Dump&& dump) { write(number, std::move(dump)); },
          .on_stopped = request_.core ? [this](std::uint32_t number,
                                               const StoppedGuest& guest) { write_core_file(number, guest); }
                                      : std::function<void(std::uint32_t, const StoppedGuest&)>(),
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
  if (!go_on) stopped_by_ = records_.empty() ? "scheduler error" : records_.back().trap();
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

void Freezer::write_core_file(std::uint32_t number, const StoppedGuest& guest) {
  CoreContents contents;
  for (const RamRegion& region : machine_->ram())
    contents.ranges.push_back({Gpa(region.gpa), region.host.size()});
  for (const auto& one : guest.registers) {
    VcpuRegistersOfCore& vcpu = contents.vcpus.emplace_back();
    if (!one) continue;
    vcpu.general = {one->rax, one->rbx, one->rcx, one->rdx, one->rsi, one->rdi, one->rbp, one->rsp,
                    one->r8,  one->r9,  one->r10, one->r11, one->r12, one->r13, one->r14, one->r15};
    vcpu.rip = one->rip;
    vcpu.rflags = one->rflags;
    vcpu.cs = one->cs;
    vcpu.gs_base = one->gs_base;
    vcpu.cr0 = one->cr0;
    vcpu.cr2 = one->cr2;
    vcpu.cr3 = one->cr3;
    vcpu.cr4 = one->cr4;
    vcpu.idt_base = one->idt_base;
    vcpu.idt_limit = one->idt_limit;
    vcpu.kernel_gs_base = one->kernel_gs_base;
  }
  const std::string vmcoreinfo = vmcoreinfo_text(guest.memory, facts_);
  contents.vmcoreinfo = vmcoreinfo;
  contents.direct_map = dumper_->location().page_offset_base;
  const auto path = folder_->path() / fmt::format("dump-{}.core", number + numbered_);
  if (auto written = write_core(path.string(), guest.memory, contents); !written)
    note("no core: " + written.error().to_string());
}

void Freezer::write(std::uint32_t number, ktstr::v1::Dump&& dump) {
  number += numbered_;
  auto& header = *dump.mutable_header();
  header.set_taken_at(fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))));
  header.set_run_id(folder_->id());
  header.set_ktstr_vm_version(request_.version);
  auto& record = records_.emplace_back();
  record.set_number(number);
  record.set_reason(header.reason());
  record.set_trap(header.trap_exit_kind_name().empty() ? header.trap() : header.trap_exit_kind_name());
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
