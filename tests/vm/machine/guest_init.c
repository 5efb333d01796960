/* PID 1 of the machine tests. The kernel hands "ktstr_test=<what>" of its command line on as an environment variable.
 * Everything it has to say goes to ttyS0, one line each. */
#include <cpuid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static void say(const char* format, ...) __attribute__((format(printf, 1, 2)));

static void write_all(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t written = write(fd, bytes, size);
    if (written < 0 && errno != EINTR && errno != EAGAIN) return;
    if (written > 0) {
      bytes += written;
      size -= (size_t)written;
    }
  }
}

static void say(const char* format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  write_all(1, line, strlen(line));
}

static void open_console(void) {
  mkdir("/dev", 0755);
  mkdir("/proc", 0755);
  mkdir("/sys", 0755);
  mount("dev", "/dev", "devtmpfs", 0, NULL);
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sys", "/sys", "sysfs", 0, NULL);
  const int tty = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
  if (tty < 0) return;
  dup2(tty, 1);
  dup2(tty, 2);
}

static int by_name(const struct dirent** a, const struct dirent** b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* In the order of their names, which is that of their dependencies. */
static void load_modules(void) {
  struct dirent** entries = NULL;
  const int count = scandir("/lib/modules/ktstr", &entries, NULL, by_name);
  for (int i = 0; i < count; ++i) {
    char path[512];
    snprintf(path, sizeof(path), "/lib/modules/ktstr/%s", entries[i]->d_name);
    const int file = entries[i]->d_name[0] == '.' ? -1 : open(path, O_RDONLY);
    if (file >= 0 && syscall(SYS_finit_module, file, "", 0) != 0) say("cannot load %s: %s\n", path, strerror(errno));
    if (file >= 0) close(file);
  }
}

/* The virtio port named "ktstr.frames"; it appears when its driver has found it, shortly after boot. */
static int open_frames(void) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    DIR* ports = opendir("/sys/class/virtio-ports");
    struct dirent* entry;
    while (ports != NULL && (entry = readdir(ports)) != NULL) {
      char path[512];
      char name[64] = "";
      snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
      const int file = open(path, O_RDONLY);
      if (file < 0) continue;
      const ssize_t got = read(file, name, sizeof(name) - 1);
      close(file);
      if (got <= 0 || strcmp(name, "ktstr.frames\n") != 0) continue;
      snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
      const int port = open(path, O_RDWR);
      closedir(ports);
      return port;
    }
    if (ports != NULL) closedir(ports);
    usleep(10 * 1000);
  }
  return -1;
}

/* What the guest has written to a port is lost when the kernel resets its devices on the way to power-off, unless the
 * host has taken it by then. The driver does not say when that is, so the host does, with a byte. */
static void wait_for_host(int port) {
  char byte;
  while (read(port, &byte, 1) != 1) usleep(1000);
}

static void echo_frames(void) {
  const int port = open_frames();
  static char buffer[32768];
  say("ECHO %d\n", port >= 0);
  for (;;) {
    const ssize_t got = read(port, buffer, sizeof(buffer));
    if (got > 0) write_all(port, buffer, (size_t)got);
    if (got > 0 && memchr(buffer, '!', (size_t)got) != NULL) break;
    if (got <= 0) usleep(1000);
  }
  wait_for_host(port);
}

/* As much as can be under way, and then the end at once. */
static void flood_and_leave(void) {
  const int port = open_frames();
  static char block[32768];
  for (int i = 0; i < 64; ++i) {
    memset(block, 'a' + i % 26, sizeof(block));
    write_all(port, block, sizeof(block));
  }
  const int hvc = open("/dev/hvc0", O_RDWR | O_NOCTTY);
  struct termios raw;
  if (tcgetattr(hvc, &raw) == 0) {
    cfmakeraw(&raw);
    tcsetattr(hvc, TCSANOW, &raw);
  }
  write_all(hvc, block, 4000);
  write_all(port, "LAST", 4);
  wait_for_host(port);
  reboot(RB_POWER_OFF);
}

/* Puts a string that no file contains into a page, and says where the page lies. */
static void mark_memory(void) {
  const size_t page = 4096;
  char* place = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  for (int i = 0; i < 64; ++i) place[i] = (char)("Gur zntvp cntr"[i % 14] ^ (i * 5 & 0x7f));
  mlock(place, page);
  const int pagemap = open("/proc/self/pagemap", O_RDONLY);
  uint64_t entry = 0;
  const off_t at = (off_t)((uintptr_t)place / page * sizeof(entry));
  if (pread(pagemap, &entry, sizeof(entry), at) != sizeof(entry)) say("no pagemap\n");
  say("PAGE %llx\n", (unsigned long long)(entry & ((1ULL << 55) - 1)) * page);
}

static void show(const char* path) {
  char text[4096];
  const int file = open(path, O_RDONLY);
  if (file < 0) return;
  ssize_t got;
  size_t size = 0;
  while (size < sizeof(text) - 1 && (got = read(file, text + size, sizeof(text) - 1 - size)) > 0) size += (size_t)got;
  close(file);
  text[size] = 0;
  for (char* line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) say("%s: %s\n", path, line);
}

static void show_topology(void) {
  char path[256];
  for (int cpu = 0; cpu < 16; ++cpu) {
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/cache/index3/shared_cpu_list", cpu);
    show(path);
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    show(path);
  }
  for (int node = 0; node < 4; ++node) {
    snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", node);
    show(path);
  }
  show("/proc/iomem");
}

static void run_for_ever(void) {
  for (unsigned long long beat = 0;; ++beat) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    say("BEAT %llu %lld.%09ld\n", beat, (long long)now.tv_sec, now.tv_nsec);
    usleep(5 * 1000);
  }
}

/* setregid(1000 + cpu, 100 + i) on vCPU `cpu`, for i from 0 to count - 1: nobody else calls it, and its arguments say
 * who it is. How many of them did what they should. */
static int call_setregid(int cpu, int count) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((size_t)cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
  int good = 0;
  for (int i = 0; i < count; ++i) {
    const long done = syscall(SYS_setregid, 1000 + cpu, 100 + i);
    if (done == 0 && syscall(SYS_getgid) == 1000 + cpu && syscall(SYS_getegid) == 100 + i) ++good;
  }
  return good;
}

/* 20 calls on every vCPU there is, all at the same time and each from a process of its own. The driver of the virtio
 * console is through with its ports then: it spins until the host answers, and a test that pauses again and again
 * does not. */
static void call_everywhere(void) {
  const int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
  close(open_frames());
  for (int cpu = 0; cpu < cpus; ++cpu) {
    if (fork() == 0) _exit(call_setregid(cpu, 20));
  }
  int good = 0;
  int status;
  while (wait(&status) > 0) good += WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  say("CALLED %d\n", good);
}

/* Calls on vCPU 0, more than anybody waits for, while vCPU 1 never leaves user mode by itself. */
static void call_beside_spinner(void) {
  volatile int* spinning = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (fork() == 0) {
    call_setregid(1, 0);
    for (;;) *spinning = 1;
  }
  while (*spinning == 0) usleep(1000);
  call_setregid(0, 1000000);
}

/* 1 to 20 into the kernel's panic_timeout, by each CPU in turn. */
static void write_panic_timeouts(void) {
  const int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
  const int file = open("/proc/sys/kernel/panic", O_WRONLY);
  for (int i = 1; i <= 20; ++i) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(i % cpus, &one);
    sched_setaffinity(0, sizeof(one), &one);
    char text[16];
    const int length = snprintf(text, sizeof(text), "%d", i);
    if (pwrite(file, text, (size_t)length, 0) != length) say("cannot write: %s\n", strerror(errno));
  }
  say("WROTE 20\n");
}

static void call_for_ever(void) {
  for (int i = 0;; ++i) {
    syscall(SYS_setregid, 1000, 100 + i);
    say("CALL %d\n", i);
    usleep(2 * 1000);
  }
}

static long long nanoseconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Reads both clocks without a pause. Says every 20 ms: MONOTONIC, the largest step of each clock from one look to the
 * next, and how far they have drifted apart, all in ns and since the beginning. On the last CPU, so that the first one
 * is idle: a KVM guest's programs read the clock page of that one. */
static void watch_clocks(void) {
  cpu_set_t last;
  CPU_ZERO(&last);
  CPU_SET((size_t)sysconf(_SC_NPROCESSORS_ONLN) - 1, &last);
  sched_setaffinity(0, sizeof(last), &last);
  const long long first_mono = nanoseconds(CLOCK_MONOTONIC);
  const long long first_real = nanoseconds(CLOCK_REALTIME);
  long long mono = first_mono, real = first_real, worst_mono = 0, worst_real = 0, said = 0;
  for (;;) {
    const long long next_mono = nanoseconds(CLOCK_MONOTONIC);
    const long long next_real = nanoseconds(CLOCK_REALTIME);
    if (next_mono - mono > worst_mono) worst_mono = next_mono - mono;
    if (next_real - real > worst_real) worst_real = next_real - real;
    if (next_mono < mono || next_real < real) say("BACKWARDS\n");
    mono = next_mono;
    real = next_real;
    if (mono - said < 20000000) continue;
    said = mono;
    say("CLOCK %lld %lld %lld %lld\n", mono, worst_mono, worst_real, (real - first_real) - (mono - first_mono));
  }
}

static int write_text(const char* path, const char* text) {
  const int file = open(path, O_WRONLY);
  if (file < 0) return 0;
  const int good = write(file, text, strlen(text)) == (ssize_t)strlen(text);
  close(file);
  return good;
}

/* Brings the last CPU up, goes there, and sends it the interrupts of the serial port and of the virtio console. */
static void use_last_cpu(void) {
  const int cpu = (int)sysconf(_SC_NPROCESSORS_CONF) - 1;
  char path[256], number[16];
  snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
  say("LAST %d online %d\n", cpu, write_text(path, "1"));
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((size_t)cpu, &set);
  const int moved = sched_setaffinity(0, sizeof(set), &set) == 0;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid_count(0xb, 0, &eax, &ebx, &ecx, &edx);
  say("LAST moved %d id %u\n", moved, edx);
  snprintf(number, sizeof(number), "%d", cpu);
  for (int irq = 1; irq < 256; ++irq) {
    snprintf(path, sizeof(path), "/proc/irq/%d/smp_affinity_list", irq);
    if (write_text(path, number)) say("LAST irq %d\n", irq);
  }
  for (int i = 0; i < 20; ++i) {
    say("LAST line %d\n", i);
    tcdrain(1);
  }
  const int hvc = open("/dev/hvc0", O_RDWR | O_NOCTTY);
  for (int i = 0; i < 20; ++i) {
    if (hvc >= 0) write_all(hvc, "hvc\n", 4);
    usleep(1000);
  }
  show("/proc/interrupts");
  say("LAST end\n");
  tcdrain(1);
}

int main(void) {
  open_console();
  load_modules();
  say("INIT\n");
  const char* what = getenv("ktstr_test");
  if (what == NULL) what = "";
  if (strcmp(what, "echo") == 0) echo_frames();
  if (strcmp(what, "flood") == 0) flood_and_leave();
  if (strcmp(what, "beat") == 0) run_for_ever();
  if (strcmp(what, "topology") == 0) show_topology();
  if (strcmp(what, "calls") == 0) call_everywhere();
  if (strcmp(what, "callspin") == 0) call_beside_spinner();
  if (strcmp(what, "callforever") == 0) call_for_ever();
  if (strcmp(what, "writes") == 0) write_panic_timeouts();
  if (strcmp(what, "clocks") == 0) watch_clocks();
  if (strcmp(what, "memory") == 0) {
    mark_memory();
    run_for_ever();
  }
  if (strcmp(what, "lastcpu") == 0) use_last_cpu();
  if (strcmp(what, "spin") == 0) {
    say("SPIN\n");
    for (;;) {
    }
  }
  if (strcmp(what, "reboot") == 0) reboot(RB_AUTOBOOT);
  if (strcmp(what, "panic") == 0) {
    const int trigger = open("/proc/sysrq-trigger", O_WRONLY);
    write_all(trigger, "c", 1);
  }
  reboot(RB_POWER_OFF);
  return 0;
}
