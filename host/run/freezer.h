// Freezer: the dumps of one run. Joins the coordinator, which knows how to freeze a guest, with the run's
// folder, its record and its result.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/error.h"
#include "host/machine/machine.h"
#include "host/monitor/freeze_coordinator.h"
#include "host/report/status_line.h"
#include "host/run/prepare.h"
#include "host/run/run_folder.h"
#include "host/run/run_record.h"
#include "host/run/run_request.h"
#include "proto/result.pb.h"

namespace ktstr {

class Freezer {
 public:
  // All references must outlive this.
  Freezer(const RunRequest& request, const Prepared& prepared, StatusLine& status)
      : request_(request), prepared_(prepared), status_(status) {}
  Freezer(const Freezer&) = delete;
  Freezer& operator=(const Freezer&) = delete;

  // Reads the kernel's symbols and types, where the run has a scheduler that may fail. Errors: kKernelLacks
  // when it lacks either and the user asked for dumps in so many words; else that is a warning.
  Expected<void> prepare();
  // Where dumps go. `record`: of a deterministic run, else nullptr. Both must outlive this.
  void set_run(const RunFolder& folder, RunRecord* record) {
    folder_ = &folder;
    record_ = record;
  }

  // For each attempt: before Machine::start.
  Expected<void> begin(Machine& machine);
  // The guest has said where its vmcoreinfo is: with KASLR this is the time to set traps.
  void on_hello(const ktstr::v1::GuestFacts& facts);
  // The machine stands at a trap. False: end it.
  bool on_trap(Machine& machine, const MachineEvent& event);
  // Takes a dump now; what cannot be done becomes a note. `resume`: let the guest go on.
  void dump(const std::string& reason, bool resume = true);
  // The same for a guest that is about to be ended because it failed; nothing with --on-freeze off.
  void dump_at_end(const std::string& reason);
  // The machine is about to end: writes what waits.
  void end();

  // How long this attempt's guest has stood still for it until now, host time.
  std::chrono::nanoseconds stood_still() const {
    return coordinator_ ? coordinator_->stood_still() : std::chrono::nanoseconds(0);
  }
  const std::vector<ktstr::v1::DumpRecord>& records() const { return records_; }
  const std::vector<std::string>& warnings() const { return warnings_; }
  // "SCX_EXIT_ERROR_STALL: worker[73] failed to run for 3.050s", of the failure that ended the run by
  // --on-freeze stop; else empty. The message is the guest's word, made printable.
  const std::string& stopped_by() const { return stopped_by_; }

 private:
  Expected<void> make_dumper();
  bool runs_where_linked(const Machine& machine) const;
  void write(std::uint32_t number, ktstr::v1::Dump&& dump);
  Expected<void> write_core_file(std::uint32_t number, const StoppedGuest& guest);
  void note(const std::string& text);

  const RunRequest& request_;
  const Prepared& prepared_;
  StatusLine& status_;
  const RunFolder* folder_ = nullptr;
  RunRecord* record_ = nullptr;
  std::unique_ptr<ScxDumper> dumper_;
  std::unique_ptr<FreezeCoordinator> coordinator_;
  Machine* machine_ = nullptr;
  ktstr::v1::GuestFacts facts_;
  std::uint32_t numbered_ = 0;  // dumps of earlier attempts
  std::vector<ktstr::v1::DumpRecord> records_;
  std::vector<std::string> warnings_;
  std::string stopped_by_;
};

}  // namespace ktstr
