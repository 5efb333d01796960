// What PID 1 can tell about the machine and the kernel it runs in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "guest/scenario/supervisor.h"
#include "proto/result.pb.h"

namespace ktstr::guest {

// Reads all facts that come from /proc, /sys and system calls and measures the slowness. What cannot be found
// stays empty; the caller adds fifo, fifo_error, init_start_ns, hello_ns and modules. page_offset_base is
// left to the host, which has the kernel's symbols: here it would cost a walk through the 200,000 lines of
// /proc/kallsyms, a second under emulation.
ktstr::v1::GuestFacts collect_guest_facts();

// The build id in hex from ELF notes (/sys/kernel/notes): the first one of name "GNU" and type
// NT_GNU_BUILD_ID; "" without.
std::string build_id_from_notes(std::span<const std::byte> notes);
// Physical address and size from /sys/kernel/vmcoreinfo: two hexadecimal numbers, the first with
// "0x" (kernel/ksysfs.c, vmcoreinfo_show).
std::optional<std::pair<std::uint64_t, std::uint64_t>> parse_vmcoreinfo(std::string_view text);
// The address of `symbol` in text of /proc/kallsyms; nothing for symbols whose address is hidden (0).
std::optional<std::uint64_t> find_kallsyms_address(std::string_view text, std::string_view symbol);
// Start of the first "Kernel code" range in the text of /proc/iomem; nothing when it is not there or hidden.
std::optional<std::uint64_t> find_kernel_code(std::string_view text);

}  // namespace ktstr::guest
