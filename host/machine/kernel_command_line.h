// The kernel command line: arguments of our own, each with its reason, and the user's, which win.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ktstr {

// An argument that we put on the command line.
struct KernelArgument {
  std::string text;    // "panic=-1"
  std::string reason;  // for --explain
  // No run without it: the user's argument of the same name is passed on besides, and does not take it away.
  bool fixed = false;
};

struct KernelCommandLine {
  std::vector<KernelArgument> own;  // of ours what is left
  std::string text;                 // the whole line: ours, then the user's
};

// Joins the two. Many of the kernel's parameters have no opposite (no_timer_check, oops=panic), or add up
// (initcall_blacklist=), so that a later argument could not undo an earlier one. Therefore an argument of
// ours is left out when the user's have one of the same name, `-` and `_` being the same (the kernel's
// parameq()). "name=" with nothing behind it only takes ours away, and is not passed on when it did. As in
// the kernel's next_arg(), double quotes keep blanks together, and what follows "--" is for init.
KernelCommandLine join_kernel_arguments(std::vector<KernelArgument> own, std::string_view user);

}  // namespace ktstr
