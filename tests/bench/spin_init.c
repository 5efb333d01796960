/* PID 1 of vmm-bench: keeps every CPU busy for ever, and says so once. The kernel hands "ktstr_spin=N" of its command
 * line on as an environment variable: N processes that spin. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
  const char* const wanted = getenv("ktstr_spin");
  const int processes = wanted != NULL ? atoi(wanted) : 1;
  for (int i = 1; i < processes; ++i)
    if (fork() == 0)
      for (;;) {
      }
  static const char text[] = "\nSPINNING\n";
  if (write(1, text, strlen(text)) < 0) return 1;
  for (;;) {
  }
}
