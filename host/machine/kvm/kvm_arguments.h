// What a kvm machine puts on the kernel command line.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "host/machine/kernel_command_line.h"

namespace ktstr::kvm {

// `frames`: FrameLink::guest_address().
std::vector<KernelArgument> kvm_kernel_arguments(std::string_view frames);

}  // namespace ktstr::kvm
