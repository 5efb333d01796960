/* Preloaded: a KVM that lacks a capability which no kvm machine can do without. */
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>

int ioctl(int fd, unsigned long request, ...) {
  static int (*next)(int, unsigned long, void *);
  va_list arguments;
  void *argument, *symbol;
  va_start(arguments, request);
  argument = va_arg(arguments, void *);
  va_end(arguments);
  if (request == KVM_CHECK_EXTENSION && (unsigned long)argument == KVM_CAP_IMMEDIATE_EXIT) return 0;
  if (!next) {
    /* ISO C does not turn one kind of pointer into the other. */
    symbol = dlsym(RTLD_NEXT, "ioctl");
    memcpy(&next, &symbol, sizeof next);
  }
  return next(fd, request, argument);
}
