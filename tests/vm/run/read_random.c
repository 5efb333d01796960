// Runs in a guest in place of a scheduler: random numbers from every place that programs take them from, and
// the clocks. "key value", one a line.
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <time.h>

static void print_bytes(const char* key, const unsigned char* bytes, size_t count) {
  printf("%s ", key);
  for (size_t i = 0; i < count; ++i) printf("%02x", bytes[i]);
  printf("\n");
}

int main(void) {
  unsigned char bytes[16];
  if (getrandom(bytes, sizeof bytes, 0) == sizeof bytes) print_bytes("getrandom", bytes, sizeof bytes);
  print_bytes("at_random", (const unsigned char*)getauxval(AT_RANDOM), 16);
  char uuid[64];
  FILE* file = fopen("/proc/sys/kernel/random/uuid", "r");
  if (file != NULL && fgets(uuid, sizeof uuid, file) != NULL) printf("uuid %s", uuid);
  printf("stack %p\n", (void*)&uuid);
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  printf("realtime %lld\n", (long long)now.tv_sec);
  clock_gettime(CLOCK_MONOTONIC, &now);
  printf("monotonic %lld\n", (long long)now.tv_sec);
  return 0;
}
