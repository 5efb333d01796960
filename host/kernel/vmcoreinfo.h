// Vmcoreinfo: the note in which a running kernel tells crash tools where it is.
//
// Lines "KEY=value", written once while the kernel boots (kernel/vmcore_info.c, x86's part in
// arch/x86/kernel/vmcore_info_64.c; Documentation/admin-guide/kdump/vmcoreinfo.rst). The guest's
// /sys/kernel/vmcoreinfo has the physical address and size of an ELF note with this text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "common/error.h"
#include "host/memory/address.h"
#include "host/memory/page_table_walk.h"

namespace ktstr {

// What a kernel did not say is absent. Values are the guest's own claims.
struct Vmcoreinfo {
  // Most bytes that are looked at; the kernel reserves one page (VMCOREINFO_BYTES).
  static constexpr std::size_t kMaxSize = std::size_t{64} << 10;

  std::string os_release;                      // OSRELEASE: "7.2.13+deb14-cloud-amd64"
  std::string build_id;                        // BUILD-ID, lower-case hexadecimal
  std::optional<std::uint64_t> kernel_offset;  // KERNELOFFSET: the slide of KASLR, 0 without
  std::optional<std::int64_t> physical_base;   // NUMBER(phys_base), signed
  std::optional<Kva> init_top_pgt;             // SYMBOL(init_top_pgt), slide included
  std::optional<Kva> stext;                    // SYMBOL(_stext), slide included
  std::optional<PagingLevels> paging;          // NUMBER(pgtable_l5_enabled)
  std::optional<std::uint64_t> sme_mask;       // NUMBER(sme_mask): 0 where memory is not encrypted
};

// Reads the text, or the ELF note (name "VMCOREINFO") around it; unknown lines are passed over, what follows
// a zero byte too. Error kUsage when there is no such line as OSRELEASE=, the note is too large, or a value
// that is wanted is no number.
Expected<Vmcoreinfo> parse_vmcoreinfo(std::span<const std::byte> note);

}  // namespace ktstr
