// Runs in a guest in place of a scheduler: random numbers from every place that programs take them from, the
// clocks, and what there is (processes of user space, mounts, cgroups, PID 1's descriptors). "key value", one
// a line.
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static void print_bytes(const char* key, const unsigned char* bytes, size_t count) {
  printf("%s ", key);
  for (size_t i = 0; i < count; ++i) printf("%02x", bytes[i]);
  printf("\n");
}

static void print_processes(void) {
  DIR* folder = opendir("/proc");
  for (struct dirent* entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    char path[300];
    char target[256];
    char comm[64] = "";
    if (atoi(entry->d_name) == 0) continue;
    snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
    // A thread of the kernel has no program.
    if (readlink(path, target, sizeof target) < 0) continue;
    snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
    FILE* file = fopen(path, "r");
    if (file != NULL && fgets(comm, sizeof comm, file) != NULL) printf("process %s", comm);
    if (file != NULL) fclose(file);
  }
  if (folder != NULL) closedir(folder);
}

static void print_mounts(void) {
  char line[512];
  FILE* file = fopen("/proc/self/mounts", "r");
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    for (char* c = line; *c != '\0' && *c != '\n'; ++c)
      if (*c == ' ') *c = '|';
    printf("mount %s", line);
  }
  if (file != NULL) fclose(file);
}

static int print_cgroup(const char* path, const struct stat* st, int type, struct FTW* place) {
  (void)st;
  (void)place;
  if (type == FTW_D) printf("cgroup %s\n", path);
  return 0;
}

static void print_descriptors(void) {
  DIR* folder = opendir("/proc/1/fd");
  for (struct dirent* entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    char path[300];
    char target[256];
    snprintf(path, sizeof path, "/proc/1/fd/%s", entry->d_name);
    const ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0) continue;
    target[length] = '\0';
    // Numbers of pipes and the like are anybody's.
    target[strcspn(target, "[")] = '\0';
    printf("descriptor %s\n", target);
  }
  if (folder != NULL) closedir(folder);
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
  print_processes();
  print_mounts();
  nftw("/sys/fs/cgroup", print_cgroup, 8, FTW_PHYS);
  print_descriptors();
  return 0;
}
