// What enums of the kernel say: values that differ between kernels, and names of bits.
#include <algorithm>
#include <set>
#include <string_view>

#include <google/protobuf/descriptor.h>

#include "host/inspect/scx/scx_plan.h"

namespace ktstr {

using google::protobuf::Descriptor;

ScxConstants make_constants(const KernelTypes& types) {
  ScxConstants constants;
  const auto value = [&](std::string_view name, std::uint64_t fallback) {
    return types.enumerator(name).value_or(fallback);
  };
  constants.task_cursor = value("SCX_TASK_CURSOR", std::uint64_t{1} << 31) & 0xffffffff;
  constants.lnode_cursor = value("SCX_DSQ_LNODE_ITER_CURSOR", 1);
  constants.opss_shift = static_cast<std::uint32_t>(value("SCX_OPSS_QSEQ_SHIFT", 2) & 63);
  constants.opss_mask = (std::uint64_t{1} << constants.opss_shift) - 1;
  constants.state_shift = static_cast<std::uint32_t>(value("SCX_TASK_STATE_SHIFT", 8) & 31);
  constants.state_mask = value("SCX_TASK_STATE_MASK", 0x300) & 0xffffffff;
  constants.exit_error = value("SCX_EXIT_ERROR", 1024);
  for (const Enumerator& one : types.enumerators("scx_ops_state")) {
    if (one.name.starts_with("SCX_OPSS_") && one.value <= constants.opss_mask &&
        one.name != "SCX_OPSS_QSEQ_SHIFT")
      constants.opss.push_back({one.name.substr(9), one.value});
  }
  // Task states are an enum of their own to 7.0, and stand shifted among the flags from 7.1.
  auto states = types.enumerators("scx_task_state");
  if (states.empty()) {
    static const std::set<std::string, std::less<>> names = {"SCX_TASK_NONE",    "SCX_TASK_INIT_BEGIN",
                                                             "SCX_TASK_INIT",    "SCX_TASK_READY",
                                                             "SCX_TASK_ENABLED", "SCX_TASK_DEAD"};
    for (Enumerator& one : types.enumerators("scx_ent_flags")) {
      if (!names.contains(one.name)) continue;
      one.value = (one.value & constants.state_mask) >> constants.state_shift;
      states.push_back(std::move(one));
    }
  }
  for (Enumerator& one : states) {
    if (!one.name.starts_with("SCX_TASK_") || one.name == "SCX_TASK_NR_STATES") continue;
    constants.states.push_back({one.name.substr(9), one.value});
  }
  constants.exit_kinds = types.enumerators("scx_exit_kind");
  return constants;
}

void add_enum_tables(const KernelTypes& types, const Descriptor* message,
                     std::vector<ktstr::v1::EnumTable>& tables) {
  for (int i = 0; i < message->field_count(); ++i) {
    const std::string& names = message->field(i)->options().GetExtension(ktstr::v1::bits);
    const bool known =
        std::any_of(tables.begin(), tables.end(), [&](const auto& one) { return one.enum_names() == names; });
    if (names.empty() || known) continue;
    ktstr::v1::EnumTable table;
    table.set_enum_names(names);
    // Alternatives are separated by '|'.
    for (std::size_t begin = 0; begin <= names.size();) {
      const std::size_t end = std::min(names.find('|', begin), names.size());
      for (const Enumerator& one : types.enumerators(std::string_view(names).substr(begin, end - begin))) {
        auto* constant = table.add_constants();
        constant->set_name(one.name);
        constant->set_value(one.value);
      }
      begin = end + 1;
    }
    if (table.constants_size() > 0) tables.push_back(std::move(table));
  }
}

}  // namespace ktstr
