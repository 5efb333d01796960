// How QEMU puts a guest to rest in files and takes it up again.
//
// A snapshot is a migration to a file. RAM does not take part: it lies in files already, and with the
// capability x-ignore-shared QEMU leaves memory out that others share (docs/devel/migration in QEMU's source;
// system/migration ram.c, migrate_ignore_shared). So the state file holds devices and vCPUs only, some 350
// KB, and takes milliseconds; the RAM files' data are copied, holes left out.
//
// A clone maps the RAM file privately: what it writes is its own, nothing is copied before, and clones share
// what none of them has written. Then nobody else has that memory mapped, and it is read with
// process_vm_readv(2): private_ram() finds where.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/unique_fd.h"
#include "host/machine/machine.h"
#include "host/machine/tcg/qmp_client.h"

namespace ktstr {

// Devices and vCPUs of a stopped guest into the file that QEMU has as descriptor QemuFd::kState, which is
// emptied first. QEMU is in the state "postmigrate" then, from which it can continue. Error kHost.
Expected<void> save_devices(QmpClient& qmp, std::chrono::nanoseconds limit);

// The other way, in a QEMU that was started with `-incoming defer`. It is stopped then. Error kHost: the file
// is none of this QEMU with these devices.
Expected<void> load_devices(QmpClient& qmp, std::chrono::nanoseconds limit);

// All of a file into an empty one. Error kHost.
Expected<void> copy_file(int from, int to);

// Where a stopped QEMU with that process id has guest RAM of nodes of these sizes: the regions, in addresses
// of that process. Error kHost.
Expected<std::vector<RamRegion>> private_ram(QmpClient& qmp, pid_t process,
                                             std::span<const std::uint64_t> node_bytes,
                                             std::chrono::nanoseconds limit);

// The address in "Host virtual address for 0x0 (ram0) is 0x7f0012345000" (QEMU monitor/hmp-cmds-target.c,
// hmp_gpa2hva). nullopt: it is no such answer.
std::optional<std::uint64_t> parse_host_address(std::string_view answer);

}  // namespace ktstr
