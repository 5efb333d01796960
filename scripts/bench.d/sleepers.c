/*
 * A guest full of tasks: starts as many as asked, in processes of ten threads, and becomes another program.
 *
 *   sleepers TASKS PERCENT PROGRAM [ARGUMENT...]
 *
 * The program is a scheduler that holds whatever wakes up. PERCENT of the tasks do so once, when it has been attached
 * for a second, and come to stand in its queues; all others sleep for ever.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kThreads = 10, kStack = 32768, kPoll = 100000, kSettle = 1000000 };

static int percent;
static int* gate; /* shared by all processes: 0 is shut */

static _Noreturn void* sleep_on(void* number) {
  if ((long)number % 100 < percent) syscall(SYS_futex, gate, FUTEX_WAIT, 0, NULL, NULL, 0);
  for (;;) pause();
}

static int is_attached(void) {
  char state[16] = "";
  const int fd = open("/sys/kernel/sched_ext/state", O_RDONLY);
  const ssize_t got = read(fd, state, sizeof state - 1);
  close(fd);
  return got > 0 && strncmp(state, "enabled", 7) == 0;
}

/* Of a policy that sched_ext has no part in, or it would be held itself. */
static void open_gate(void) {
  const struct sched_param priority = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_FIFO, &priority)) _exit(1);
  while (!is_attached()) usleep(kPoll);
  usleep(kSettle);
  *gate = 1;
  syscall(SYS_futex, gate, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
  _exit(0);
}

static int start(int tasks) {
  for (int first = 0; first < tasks; first += kThreads) {
    const pid_t child = fork();
    if (child < 0) return -1;
    if (child > 0) continue;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStack);
    for (long number = first + 1; number < first + kThreads && number < tasks; number++) {
      pthread_t thread;
      if (pthread_create(&thread, &attributes, sleep_on, (void*)(number * 37))) _exit(1);
    }
    sleep_on((void*)(first * 37L));
  }
  const pid_t waker = fork();
  if (waker == 0) open_gate();
  return waker < 0 ? -1 : 0;
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  percent = atoi(argv[2]);
  gate = mmap(NULL, sizeof *gate, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (gate == MAP_FAILED || start(atoi(argv[1])) < 0) {
    perror("sleepers");
    return 1;
  }
  execv(argv[3], argv + 3);
  perror(argv[3]);
  return 1;
}
