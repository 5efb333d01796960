// Runs in a guest in place of a scheduler: what the kernel says its symbols are. Prints how many lines of
// /proc/kallsyms are the kernel's own (those of modules, BPF programs and the like name where they belong, in
// brackets), and every 499th of these with its number: "symbol 499 ffffffff81001230 name".
#include <stdio.h>
#include <string.h>

int main(void) {
  FILE* file = fopen("/proc/kallsyms", "r");
  if (file == NULL) {
    perror("/proc/kallsyms");
    return 1;
  }
  char line[1024];
  unsigned long count = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    if (strchr(line, '[') != NULL) continue;
    unsigned long long address = 0;
    char type = 0;
    char name[600];
    if (sscanf(line, "%llx %c %599s", &address, &type, name) != 3) {
      printf("not a symbol: %s", line);
      return 1;
    }
    if (count % 499 == 0) printf("symbol %lu %llx %s\n", count, address, name);
    ++count;
  }
  printf("symbols: %lu\n", count);
  return 0;
}
