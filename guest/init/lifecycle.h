// The life of PID 1, from its first instruction to power-off.
#pragma once

namespace ktstr::guest {

// Runs everything in order; never returns. See lifecycle.cc for the order.
[[noreturn]] void run_as_init();

}  // namespace ktstr::guest
