// ktstr-guest: /init of every guest.
#include <unistd.h>

#include <cstdio>

#include "guest/init/lifecycle.h"

int main() {
  if (::getpid() != 1) {
    std::fputs("ktstr-guest is PID 1 of a ktstr-vm guest; it does nothing when started by hand\n", stderr);
    return 2;
  }
  ktstr::guest::run_as_init();
}
