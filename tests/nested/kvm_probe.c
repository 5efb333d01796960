// Proves that a KVM is real hardware virtualization as far as a program can see: opens /dev/kvm, checks the
// API version, and runs a guest of five bytes in real mode that writes one byte to a port and halts. Prints
// one line; exit status 0 when all of it went as it should, 1 with a message otherwise. What
// scripts/nested-kvm is tested with; needs no library.
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kLoadAddress = 0x1000, kPort = 0x3f8, kByte = 0x42 };

// mov $0x3f8, %dx; mov $0x42, %al; out %al, (%dx); hlt
static const unsigned char kCode[] = {0xba, 0xf8, 0x03, 0xb0, kByte, 0xee, 0xf4};

static void fail(const char* what) {
  fprintf(stderr, "kvm-probe: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int call(int fd, unsigned long request, void* argument, const char* name) {
  const int result = ioctl(fd, request, argument);
  if (result < 0) fail(name);
  return result;
}

static void expect(int right, const char* what) {
  if (right) return;
  errno = EPROTO;
  fail(what);
}

int main(void) {
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) fail("cannot open /dev/kvm");
  expect(call(kvm, KVM_GET_API_VERSION, NULL, "KVM_GET_API_VERSION") == KVM_API_VERSION,
         "another API version");
  const int vm = call(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
  void* memory = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  memcpy(memory, kCode, sizeof kCode);
  struct kvm_userspace_memory_region region = {
      .guest_phys_addr = kLoadAddress, .memory_size = 0x1000, .userspace_addr = (unsigned long)memory};
  call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
  const int vcpu = call(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
  const int size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
  struct kvm_run* run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  if (run == MAP_FAILED) fail("mmap of the vCPU");
  struct kvm_sregs sregs;
  call(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  call(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = kLoadAddress, .rflags = 2};
  call(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
  call(vcpu, KVM_RUN, NULL, "KVM_RUN");
  expect(run->exit_reason == KVM_EXIT_IO && run->io.port == kPort && run->io.direction == KVM_EXIT_IO_OUT &&
             run->io.size == 1 && ((unsigned char*)run)[run->io.data_offset] == kByte,
         "the first exit is not the write to the port");
  call(vcpu, KVM_RUN, NULL, "KVM_RUN");
  expect(run->exit_reason == KVM_EXIT_HLT, "the second exit is not the halt");
  printf("kvm-probe: out and hlt as they should be\n");
  return 0;
}
