// Looking things up in a Dump, for tests. What is not there is an empty message.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "proto/dump.pb.h"

namespace ktstr::test {

inline const v1::Task& task_of(const v1::Dump& dump, std::int32_t pid) {
  const auto found = std::find_if(dump.tasks().begin(), dump.tasks().end(),
                                  [&](const auto& task) { return task.pid() == pid; });
  return found == dump.tasks().end() ? v1::Task::default_instance() : *found;
}

inline const v1::Dsq& dsq_of(const v1::Dump& dump, std::string_view name) {
  const auto found = std::find_if(dump.dsqs().begin(), dump.dsqs().end(),
                                  [&](const auto& dsq) { return dsq.name() == name; });
  return found == dump.dsqs().end() ? v1::Dsq::default_instance() : *found;
}

// The tasks on a queue, in its order.
inline std::vector<std::int32_t> pids_of(const v1::Dsq& dsq) {
  std::vector<std::int32_t> pids;
  for (const auto& entry : dsq.tasks()) pids.push_back(entry.pid());
  return pids;
}

inline const v1::Sched& sched_of(const v1::Dump& dump, std::string_view name) {
  const auto found = std::find_if(dump.scheds().begin(), dump.scheds().end(),
                                  [&](const auto& sched) { return sched.name() == name; });
  return found == dump.scheds().end() ? v1::Sched::default_instance() : *found;
}

inline std::vector<v1::DumpFinding> findings_of(const v1::Dump& dump, std::string_view kind) {
  std::vector<v1::DumpFinding> found;
  std::copy_if(dump.findings().begin(), dump.findings().end(), std::back_inserter(found),
               [&](const auto& one) { return one.kind() == kind; });
  return found;
}

// Why `what` is absent; "" when nothing says so.
inline std::string reason_of(const v1::Dump& dump, std::string_view what) {
  for (const auto& absence : dump.absent()) {
    if (absence.what() == what) return absence.reason();
  }
  return {};
}

// The path that was taken; "" when there was no choice.
inline std::string access_of(const v1::Dump& dump, std::string_view field) {
  for (const auto& access : dump.access()) {
    if (access.field() == field) return access.path();
  }
  return {};
}

template <typename Message>
std::string other_of(const Message& message, std::string_view name) {
  for (const auto& other : message.other()) {
    if (other.name() == name) return other.value();
  }
  return {};
}

inline std::string faults_of(const v1::Dump& dump) {
  std::string text;
  for (const auto& fault : dump.faults()) text += fault.path() + ": " + fault.text() + "\n";
  return text;
}

}  // namespace ktstr::test
