// Deterministic runs: what follows from a seed, and what a run is made from (docs/determinism.md).
//
// The guest is a function of the bytes that go into the emulator: kernel, initramfs with the plan in it,
// kernel command line, the emulator's own flags and binary. All of them are named with their hashes in the
// result, so that a second run that differs can say which of them changed.
#pragma once

#include <string>
#include <vector>

#include "common/error.h"
#include "host/kernel/kernel_image.h"
#include "host/run/prepare.h"
#include "proto/plan.pb.h"
#include "proto/result.pb.h"

namespace ktstr {

// Takes --deterministic's SEED, a decimal number below 2^64. Error kUsage.
Expected<ktstr::v1::Deterministic> derive_from_seed(const std::string& seed);

// Whether this kernel can run deterministically: PID 1 needs the right to use an I/O port. Error
// kKernelLacks.
Expected<void> check_deterministic_kernel(const KernelImage& kernel);

// The plan without what only says something about this host or this execution, as the guest gets it: its
// bytes are an input.
ktstr::v1::RunPlan plan_for_guest(const ktstr::v1::RunPlan& plan);

// Everything that goes into the machine, hashed. Error kHost when something cannot be read.
Expected<std::vector<ktstr::v1::InputFile>> list_inputs(const Prepared& prepared, const Machine& machine);

// "kernel '/x' has changed: ...", one line for each input of `recorded` that is gone or different in
// `present`.
std::vector<std::string> compare_inputs(
    const google::protobuf::RepeatedPtrField<ktstr::v1::InputFile>& recorded,
    const std::vector<ktstr::v1::InputFile>& present);

// The same for what has a path, by reading the files again: one line for each that is gone or has other
// contents.
std::vector<std::string> check_input_files(
    const google::protobuf::RepeatedPtrField<ktstr::v1::InputFile>& recorded);

}  // namespace ktstr
