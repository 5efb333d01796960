// What the guest's kernel would print for a format and its arguments, from outside.
//
// A guest that is ended where its scheduler's exit is claimed never composes the message. All it is made from
// is there: the format string and the arguments. This expands them by the rules of the kernel's vsnprintf()
// (Documentation/core-api/printk-formats.rst, include/linux/sprintf.h): flags, width, precision, the integer
// conversions, %c, %s, %%, %p and its forms %pS, %ps, %pB for symbols.
//
// It differs in two ways. A plain %p shows the true address, where the kernel shows a hash of it. Forms of %p
// that look into structures (%pI4, %*pbl, ...) are shown as the address, and named as not expanded.
//
// Everything is hostile: the format may have no end, a width may be INT_MAX, a string may point anywhere. The
// result has at most kMaxMessage bytes, and the budget bounds what is read.
#pragma once

#include <cstddef>
#include <string>

#include "host/kernel/guest_kernel.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"
#include "host/monitor/guest_varargs.h"

namespace ktstr {

struct ExpandedFormat {
  std::string text;     // any bytes, no zero; as far as it went
  std::string problem;  // why that is not all, one sentence; empty: it is
};

// As the kernel's: SCX_EXIT_MSG_LEN is 1024, zero included.
inline constexpr std::size_t kMaxMessage = 1023;

// `kernel` names symbols; nullptr: they are shown as addresses.
ExpandedFormat expand_format(KernelReader& memory, Kva format, GuestVarargs arguments,
                             const GuestKernel* kernel, ReadBudget& budget);

}  // namespace ktstr
