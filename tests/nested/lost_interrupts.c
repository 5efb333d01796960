// Finds out whether interrupts get lost where a KVM is emulated. Usage: lost-interrupts SECONDS
//
// A guest in real mode with interrupts off leaves for the hypervisor all the time, while the hypervisor waits
// for its interrupts to come on (so that every entry sets V_IRQ), and a timer of ours interrupts 5,000 times a
// second. QEMU's helper_vmrun sets the bit for V_IRQ in the word of pending interrupts without the lock that
// its other threads set theirs with: what comes in between is lost. A timer that lost its interrupt is not
// programmed again, and nothing else asks the interrupt controller, so the machine has no time any more.
//
// Prints one line; exit status 0 when no timer's interrupt was 0.2 s late, 1 when one was, 2 when there was
// trouble. Needs no library.
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { kLoadAddress = 0x1000, kPort = 0x10, kMicroseconds = 200 };
static const double kLate = 0.2;

// cli; again: mov $200, %di; loop: xor %eax, %eax; cpuid; dec %di; jnz loop; out %al, $kPort; jmp again
static const unsigned char kCode[] = {0xfa, 0xbf, 0xc8, 0x00, 0x66, 0x31, 0xc0,  0x0f,
                                      0xa2, 0x4f, 0x75, 0xf8, 0xe6, kPort, 0xeb, 0xf1};

static volatile sig_atomic_t alarms;
static void on_alarm(int number) {
  (void)number;
  ++alarms;
}

static void fail(const char* what) {
  fprintf(stderr, "lost-interrupts: %s: %s\n", what, strerror(errno));
  exit(2);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int call(int fd, unsigned long request, void* argument, const char* name) {
  const int result = ioctl(fd, request, argument);
  if (result < 0) fail(name);
  return result;
}

static struct kvm_run* make_guest(int* vcpu) {
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) fail("cannot open /dev/kvm");
  const int vm = call(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
  void* memory = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  memcpy(memory, kCode, sizeof kCode);
  struct kvm_userspace_memory_region region = {
      .guest_phys_addr = kLoadAddress, .memory_size = 0x1000, .userspace_addr = (unsigned long)memory};
  call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
  *vcpu = call(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
  const int size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
  struct kvm_run* run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, *vcpu, 0);
  if (run == MAP_FAILED) fail("mmap of the vCPU");
  struct kvm_sregs sregs;
  call(*vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  call(*vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = kLoadAddress, .rflags = 2};
  call(*vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
  run->request_interrupt_window = 1;
  return run;
}

int main(int count, char** words) {
  const double seconds = count == 2 ? atof(words[1]) : 0;
  if (seconds <= 0) {
    fprintf(stderr, "usage: lost-interrupts SECONDS\n");
    return 2;
  }
  int vcpu = -1;
  struct kvm_run* run = make_guest(&vcpu);
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  const struct itimerval interval = {{0, kMicroseconds}, {0, kMicroseconds}};
  setitimer(ITIMER_REAL, &interval, NULL);

  const double begun = now();
  double last = begun;
  long seen = 0, entries = 0, lost = 0;
  for (double time = begun; time < begun + seconds; time = now()) {
    if (alarms != seen) {
      seen = alarms;
      last = time;
    } else if (time > last + kLate) {
      ++lost;
      // To print is to use a device, whose interrupt brings the timer's with it.
      printf("a timer's interrupt is lost after %.1f s\n", time - begun);
      fflush(stdout);
      const struct timespec moment = {0, 20000000};
      nanosleep(&moment, NULL);
      last = now();
    }
    if (ioctl(vcpu, KVM_RUN, NULL) < 0) {
      if (errno != EINTR) fail("KVM_RUN");
      continue;
    }
    if (run->exit_reason != KVM_EXIT_IO) {
      fprintf(stderr, "lost-interrupts: exit reason %u\n", run->exit_reason);
      return 2;
    }
    ++entries;
  }
  printf("%ld interrupts, %ld exits to user space, %ld lost\n", (long)alarms, entries, lost);
  return lost != 0;
}
