// `ktstr-vm doctor`: what this host offers, and how to mend what is missing.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "host/machine/host_report.h"

namespace ktstr {

struct DoctorRequest {
  bool json = false;  // --json
};

// Adds the options of doctor; parsing fills `request`, which must outlive `command`.
void add_doctor_options(CLI::App& command, DoctorRequest& request);

// Looks, prints, and returns the process's exit code: 0 when some machine can run here, 20 (kHost) when none
// can.
int doctor_command(const DoctorRequest& request);

// The report as a table of `width` columns, and as JSON (docs/doctor.md). Both end with a newline.
std::string doctor_text(const HostReport& report, std::size_t width, bool color);
std::string doctor_json(const HostReport& report, const HostFacts& facts);

}  // namespace ktstr
