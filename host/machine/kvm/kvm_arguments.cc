#include "host/machine/kvm/kvm_arguments.h"

#include <fmt/core.h>

namespace ktstr::kvm {

std::vector<KernelArgument> kvm_kernel_arguments(std::string_view frames) {
  return {
      {"console=ttyS0", "the console that works from the first message on", true},
      {fmt::format("ktstr.frames={}", frames), "where PID 1 finds its end of the frame stream", true},
      {"panic=-1", "a panic reboots at once, which ends the machine"},
      {"reboot=k",
       "the machine resets by the keyboard controller: hardware-reduced ACPI leaves the kernel no other way"},
      {"clocksource=kvm-clock", "the clock that can be held while the guest is frozen"},
      {"no_timer_check", "on a loaded host the timer check can fail and panic the kernel"},
      {"8250.nr_uarts=1", "there is one serial port: looking for three more costs exits"},
      {"pci=off", "there is no PCI: looking for it costs exits"},
      {"cryptomgr.notests=1", "saves 0.4 s of a boot: no self-tests of crypto algorithms"},
      {"initcall_blacklist=load_system_certificate_list",
       "saves up to 0.1 s of a boot: no RSA on built-in certificates; signed modules then load as unsigned "
       "ones"},
  };
}

}  // namespace ktstr::kvm
