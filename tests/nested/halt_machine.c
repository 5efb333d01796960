// Halts the machine that it runs on, for good and without a word: what scripts/nested-kvm has to notice. Only
// for L1.
#include <stdio.h>
#include <sys/reboot.h>
#include <unistd.h>

int main(void) {
  // Nobody halts a machine by mistake: L1 has this folder, others do not.
  if (access("/nested/plan", F_OK) != 0) {
    fprintf(stderr, "halt-machine: this is not L1 of scripts/nested-kvm\n");
    return 1;
  }
  printf("begun\n");
  fflush(stdout);
  // PID 1 has to read this and send it on, which nobody can see from here.
  usleep(500000);
  reboot(RB_HALT_SYSTEM);
  perror("halt-machine");
  return 1;
}
