// Numbers that the BPF code and its loader share.
#pragma once

enum {
  kMaxCpus = 1024,
  kMaxTasks = 16384,
  kGroups = 4,
  // The shared queue and those of the groups.
  kServedDsqs = 1 + kGroups,
  // Those of --dsqs.
  kMostHoldDsqs = 256,
  kReasonSize = 128,
  kMessageSize = 1024,
  kDumpSize = 1 << 17,
};
