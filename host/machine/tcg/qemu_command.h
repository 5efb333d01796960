// The command line of a tcg machine, as a pure function of what is to be booted.
//
// QEMU gets everything by inherited descriptors with fixed numbers, so that the command line is the same in
// every run and no file of ours has a name: kernel, initramfs and RAM are opened by QEMU through
// /proc/self/fd, sockets are given to its chardevs by number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/machine/machine.h"

namespace ktstr {

// Descriptor numbers in the QEMU process. Memory files of node 0, 1, ... start at kFirstMemory.
struct QemuFd {
  static constexpr int kQmp = 3;        // socket
  static constexpr int kSerial = 4;     // write end of a pipe
  static constexpr int kHvc = 5;        // socket
  static constexpr int kFrames = 6;     // socket
  static constexpr int kKernel = 7;     // regular file
  static constexpr int kInitramfs = 8;  // regular file
  static constexpr int kGdb = 9;        // socket
  static constexpr int kState = 10;     // regular file: devices and vCPUs of a snapshot
  // One file each node; of a clone the only one, all nodes in it.
  static constexpr int kFirstMemory = 11;
};

// Under which name the process opens a descriptor that it has inherited.
std::string fd_path(int fd);

// Name of the virtio-serial port that carries frames (/sys/class/virtio-ports/*/name in the guest).
inline constexpr const char* kFramesPortName = "ktstr.frames";

struct QemuCommandOptions {
  std::string binary = {};
  // Folders with QEMU's firmware (-L); empty: where the binary looks by itself.
  std::vector<std::string> firmware_folders = {};
  // One host thread for all vCPUs.
  bool single_thread = false;
  // Whole kernel command line.
  std::string command_line = {};
};

// argv including argv[0]. `spec` has passed check_pc_limits.
std::vector<std::string> qemu_command(const BootSpec& spec, const QemuCommandOptions& options);

}  // namespace ktstr
