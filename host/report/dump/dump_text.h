// A dump as text for people.
//
// It opens with what happened and what looks wrong. Then comes the kernel's own dump in the kernel's words
// and order (see kernel_lines.h), with two differences: it is never cut off, and it has a line for idle CPUs
// too. What no kernel prints follows: DSQs and what is on them, all tasks by where they are, who waits for
// whom, members we have no name for, what could not be read and why.
#pragma once

#include "host/report/dump/dump_sink.h"
#include "host/report/dump/kernel_lines.h"

namespace ktstr {

struct DumpTextOptions {
  // Sleeping tasks one by one, empty DSQs, members of structures without a name of ours.
  bool all = false;
};

// The caller calls sink.finish().
void write_dump_text(const ktstr::v1::Dump& dump, const DumpTextOptions& options, DumpSink& sink);

// One CPU with everything about it; its tasks as the kernel shows them.
void write_cpu_text(const KernelLines& lines, const ktstr::v1::Cpu& cpu, DumpSink& sink);
// One DSQ with its tasks in order.
void write_dsq_text(const ktstr::v1::Dsq& dsq, DumpSink& sink);
// One task with everything about it.
void write_task_text(const KernelLines& lines, const ktstr::v1::Task& task, DumpSink& sink);

}  // namespace ktstr
