// Which pages of guest RAM anybody has touched, and which parts of a file are not holes.
//
// Of a guest's memory a third to a half was never touched; the kernel knows which (/proc/PID/pagemap,
// Documentation/admin-guide/mm/pagemap.rst), so that they need not be looked at: looking gives each of them a
// page table entry that the guest's first write then has to break.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "common/error.h"

namespace ktstr::kvm {

// Calls `each(pages, touched)` for runs of pages that this process, or KVM on its behalf, has touched or has
// not, until one of the calls fails. What nobody has touched of a private mapping of a file still is the
// file's, and zeros elsewhere. Where the kernel does not tell, all pages count as touched. `memory`: whole
// pages, mapped, not shared.
using PageRun = std::function<Expected<void>(std::span<const std::byte> pages, bool touched)>;
Expected<void> for_each_page_run(std::span<const std::byte> memory, const PageRun& each);

// Calls `each(offset, size)` for the parts of a file that are not holes, until one of the calls fails. Parts
// begin and end at multiples of `grain`, or at the end; holes that are no whole grain belong to the parts.
// One system call for each grain of data, and one for each hole: what it costs does not depend on how
// scattered the data are.
using FilePart = std::function<Expected<void>(std::uint64_t offset, std::uint64_t size)>;
Expected<void> for_each_data_part(int file, std::uint64_t begin, std::uint64_t size, std::uint64_t grain,
                                  const FilePart& each);

}  // namespace ktstr::kvm
