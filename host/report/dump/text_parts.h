// Pieces that the sections of a dump's text share. Internal to host/report/dump.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/repeated_ptr_field.h>

#include "host/report/dump/dump_sink.h"
#include "host/report/dump/kernel_lines.h"
#include "proto/dump.pb.h"

namespace ktstr {

// An empty line, the title, a line below it.
void put_title(DumpSink& sink, std::string_view text);
// "1.500 ms"
std::string ms_text(std::uint64_t ns);
std::string joined(const std::vector<std::string>& words);
// " waiting 12ms"; "" when it does not wait.
std::string waiting_text(const ktstr::v1::Task& task);
// A line for each frame, each other member.
void put_stack(DumpSink& sink, const google::protobuf::RepeatedPtrField<ktstr::v1::StackEntry>& frames,
               std::string_view prefix);
void put_others(DumpSink& sink, const google::protobuf::RepeatedPtrField<ktstr::v1::Other>& list,
                std::string_view prefix);
void put_vcpu(const ktstr::v1::Vcpu& vcpu, DumpSink& sink);
// The tasks of a CPU as the kernel shows them, with their stacks.
void put_cpu_tasks(const KernelLines& lines, const ktstr::v1::Cpu& cpu, DumpSink& sink);

}  // namespace ktstr
