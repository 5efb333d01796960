// The guest's files.
//
// A guest that is to be kept at Hello boots with what every run of its kernel needs, and gets the rest over
// the frame port then: so it can serve any run. Others have all of it in their initramfs, which is faster; a
// deterministic one must, because nothing may enter it after its start.
//
//   /init                      ktstr-guest
//   /etc/ktstr/modules         modules PID 1 loads, one guest path a line, in order
//   /boot/config-<release>     the kernel's configuration: libbpf resolves Kconfig externs from it
//   /ktstr/bin/<scheduler>     the scheduler; its libraries where ld.so will look for them
//   /etc/ktstr/plan            the plan, when nothing enters the guest after its start; in an archive of its
//   own /include/<name>            files the user asked for, unless given a path of their own
#pragma once

#include <string>
#include <vector>

#include "common/error.h"
#include "host/boot/initramfs.h"
#include "host/kernel/kernel_image.h"
#include "proto/plan.pb.h"

namespace ktstr {

// Where the scheduler `name` stands in the guest.
std::string guest_scheduler_path(const std::string& name);

// Takes "FILE" or "FILE:GUESTPATH" apart; the guest path defaults to /include/<base name>. Error kUsage when
// the file does not exist or the guest path is not absolute.
Expected<ktstr::v1::IncludedFile> parse_include(const std::string& text);

// Path of the ktstr-guest program: KTSTR_GUEST, beside this program, or ../libexec/ktstr-vm/. Error kHost,
// naming these.
Expected<std::string> find_guest_program();

struct GuestFiles {
  Initramfs initramfs;
  // What is sent after Hello: scheduler, libraries, included files.
  FileBundle later;
  // All of it, for a guest that gets everything at once after all.
  InitramfsBuilder all;
};

// Packs everything `plan` needs; all of it into the initramfs when `nothing_later`. `modules`: drivers the
// machine needs, by module name. Errors: kStartFailed (scheduler), kKernelLacks (a driver), kUsage (an
// included file), kHost.
Expected<GuestFiles> pack_guest_files(const ktstr::v1::RunPlan& plan, const KernelImage& kernel,
                                      const std::vector<std::string>& modules, bool nothing_later);

// An archive with the plan alone, to go behind the other one. Error kHost.
Expected<Initramfs> pack_plan(std::string serialized_plan);

}  // namespace ktstr
