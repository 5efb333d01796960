#include "host/report/dump/dump_diff.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "host/report/dump/safe_text.h"

namespace ktstr {
namespace {

using namespace ktstr::v1;

// The values of an object that are compared, in the order in which they are shown.
class Values {
 public:
  void text(std::string name, std::string value) {
    all_.push_back({std::move(name), std::move(value), false, 0});
  }
  void number(std::string name, bool has, std::int64_t value) {
    text(std::move(name), has ? fmt::format("{}", value) : "-");
  }
  void hex(std::string name, bool has, std::uint64_t value) {
    text(std::move(name), has ? fmt::format("{:#x}", value) : "-");
  }
  // A counter that only grows, wrapping at its width.
  void counter(std::string name, bool has, std::uint64_t value) {
    all_.push_back({std::move(name), has ? fmt::format("{}", value) : "-", has, value});
  }
  void members(std::string name, std::vector<std::string> list) {
    lists_.emplace_back(std::move(name), std::move(list));
  }

  std::vector<FieldChange> changes_to(const Values& after) const {
    std::vector<FieldChange> changes;
    std::map<std::string_view, const Value*> by_name;
    for (const Value& value : all_) by_name.emplace(value.name, &value);
    for (const Value& now : after.all_) {
      const auto found = by_name.find(now.name);
      const Value* then = found == by_name.end() ? nullptr : found->second;
      const std::string before = then == nullptr ? "-" : then->shown;
      if (before == now.shown) continue;
      const bool grew = now.counter && then != nullptr && then->counter && now.raw > then->raw;
      changes.push_back(
          {now.name, before, grew ? fmt::format("{} (+{})", now.shown, now.raw - then->raw) : now.shown});
    }
    for (std::size_t i = 0; i < std::min(lists_.size(), after.lists_.size()); ++i) {
      list_changes(lists_[i], after.lists_[i], changes);
    }
    return changes;
  }

 private:
  struct Value {
    std::string name;
    std::string shown;
    bool counter = false;
    std::uint64_t raw = 0;
  };
  using List = std::pair<std::string, std::vector<std::string>>;

  static void list_changes(const List& before, const List& after, std::vector<FieldChange>& changes) {
    if (before.second == after.second) return;
    const std::set<std::string> then(before.second.begin(), before.second.end());
    const std::set<std::string> now(after.second.begin(), after.second.end());
    std::string in;
    std::string out;
    for (const std::string& name : after.second) in += then.count(name) == 0 ? " " + name : "";
    for (const std::string& name : before.second) out += now.count(name) == 0 ? " " + name : "";
    if (!out.empty()) changes.push_back({before.first + " out", out.substr(1), ""});
    if (!in.empty()) changes.push_back({before.first + " in", "", in.substr(1)});
    if (in.empty() && out.empty()) changes.push_back({before.first, "", "in another order"});
  }

  std::vector<Value> all_;
  std::vector<List> lists_;
};

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return text;
}

std::string named(std::string_view comm, std::int32_t pid) {
  return fmt::format("{}[{}]", printable_utf8(comm), pid);
}

Values values_of(const ScxGlobals& g) {
  Values v;
  v.number("scx_enable_state_var", g.has_scx_enable_state_var(), g.scx_enable_state_var());
  v.number("scx_enabled", g.has_scx_enabled(), g.scx_enabled());
  v.number("scx_switched_all", g.has_scx_switched_all(), g.scx_switched_all());
  v.counter("scx_nr_rejected", g.has_scx_nr_rejected(), static_cast<std::uint64_t>(g.scx_nr_rejected()));
  v.counter("scx_enable_seq", g.has_scx_enable_seq(), static_cast<std::uint64_t>(g.scx_enable_seq()));
  v.counter("scx_hotplug_seq", g.has_scx_hotplug_seq(), static_cast<std::uint64_t>(g.scx_hotplug_seq()));
  v.number("scx_bypass_depth", g.has_scx_bypass_depth(), g.scx_bypass_depth());
  v.hex("scx_root", g.has_scx_root(), g.scx_root());
  v.number("scx_exit_kind", g.has_scx_exit_kind(), g.scx_exit_kind());
  v.counter("scx_watchdog_timestamp", g.has_scx_watchdog_timestamp(), g.scx_watchdog_timestamp());
  v.counter("jiffies_64", g.has_jiffies_64(), g.jiffies_64());
  v.text("idle_cpus", g.idle_cpus());
  v.text("idle_smt", g.idle_smt());
  return v;
}

Values values_of(const Sched& s) {
  Values v;
  v.text("place", printable_utf8(s.place()));
  v.number("bypass_depth", s.has_bypass_depth(), s.bypass_depth());
  v.number("aborting", s.has_aborting(), s.aborting() ? 1 : 0);
  v.number("dead", s.has_dead(), s.dead() ? 1 : 0);
  v.number("exit_kind", s.has_exit_kind(), s.exit_kind());
  v.number("exit_info.kind", s.has_exit_info(), s.exit_info().kind());
  v.text("exit_info.reason", printable_utf8(s.exit_info().reason()));
  v.text("exit_info.msg", printable_utf8(s.exit_info().msg()));
  for (const SchedCpu& c : s.cpus()) {
    const std::string cpu = fmt::format("cpus[{}].", c.cpu());
    if (c.has_cpus_to_kick()) v.text(cpu + "cpus_to_kick", c.cpus_to_kick());
    if (c.has_cpus_to_kick_if_idle()) v.text(cpu + "cpus_to_kick_if_idle", c.cpus_to_kick_if_idle());
    if (c.has_cpus_to_preempt()) v.text(cpu + "cpus_to_preempt", c.cpus_to_preempt());
    if (c.has_cpus_to_wait()) v.text(cpu + "cpus_to_wait", c.cpus_to_wait());
  }
  const std::map<std::string, std::uint64_t> events(s.events().begin(), s.events().end());
  for (const auto& [name, count] : events) v.counter("events." + printable_utf8(name), true, count);
  return v;
}

Values values_of(const Cpu& c) {
  Values v;
  v.text("curr", named(c.curr().comm(), c.curr().pid()));
  v.text("curr_class", printable_utf8(c.curr_class()));
  v.number("idle", true, c.idle() ? 1 : 0);
  v.number("rq_nr_running", c.has_rq_nr_running(), c.rq_nr_running());
  v.number("nr_running", c.has_nr_running(), c.nr_running());
  v.hex("flags", c.has_flags(), c.flags());
  v.number("cpu_released", c.has_cpu_released(), c.cpu_released() ? 1 : 0);
  v.counter("nr_switches", c.has_nr_switches(), c.nr_switches());
  v.counter("kick_sync", c.has_kick_sync(), c.kick_sync());
  v.counter("pnt_seq", c.has_pnt_seq(), c.pnt_seq());
  v.counter("ops_qseq", c.has_ops_qseq(), c.ops_qseq());
  v.text("cpus_to_kick", c.cpus_to_kick());
  v.text("cpus_to_kick_if_idle", c.cpus_to_kick_if_idle());
  v.text("cpus_to_preempt", c.cpus_to_preempt());
  v.text("cpus_to_wait", c.cpus_to_wait());
  v.text("cpus_to_sync", c.cpus_to_sync());
  v.text("rip", printable_utf8(c.vcpu().symbol()));
  std::vector<std::string> runnable;
  for (const std::int32_t pid : c.runnable_list()) runnable.push_back(fmt::format("{}", pid));
  v.members("runnable_list", std::move(runnable));
  return v;
}

Values values_of(const Dsq& d) {
  Values v;
  v.number("nr", d.has_nr(), d.nr());
  v.counter("seq", d.has_seq(), d.seq());
  std::vector<std::string> members;
  for (const DsqEntry& entry : d.tasks()) members.push_back(named(entry.comm(), entry.pid()));
  v.members("tasks", std::move(members));
  std::string problems;
  for (const std::string& problem : d.problems())
    problems += (problems.empty() ? "" : "; ") + printable_utf8(problem);
  v.text("problems", problems);
  return v;
}

Values values_of(const Task& t) {
  Values v;
  v.text("where", lower(Task::Where_Name(t.where())));
  v.text("state_char", printable_utf8(t.state_char()));
  v.number("cpu", t.has_cpu(), t.cpu());
  v.text("dsq_name", printable_utf8(t.dsq_name()));
  v.text("sched_class", printable_utf8(t.sched_class()));
  v.text("ops_state_name", printable_utf8(t.ops_state_name()));
  v.text("scx_state_name", printable_utf8(t.scx_state_name()));
  v.number("waiting_ms", t.has_waiting_ms(), t.waiting_ms());
  v.hex("flags", t.has_flags(), t.flags());
  v.number("weight", t.has_weight(), t.weight());
  v.text("cpus_mask", printable_utf8(t.cpus_mask()));
  v.number("slice", t.has_slice(), static_cast<std::int64_t>(t.slice()));
  v.counter("dsq_vtime", t.has_dsq_vtime(), t.dsq_vtime());
  v.counter("sum_exec_runtime", t.has_sum_exec_runtime(), t.sum_exec_runtime());
  v.counter("nvcsw", t.has_nvcsw(), t.nvcsw());
  v.counter("nivcsw", t.has_nivcsw(), t.nivcsw());
  return v;
}

struct Identity {
  std::string key;
  std::string name;
};
Identity identity_of(const Sched& s) {
  return {fmt::format("{:x}/{}", s.address(), s.name()),
          fmt::format("{} ({})", printable_utf8(s.name()), printable_utf8(s.place()))};
}
Identity identity_of(const Cpu& c) {
  return {fmt::format("{}", c.cpu()), fmt::format("CPU {}", c.cpu())};
}
Identity identity_of(const Dsq& d) {
  return {fmt::format("{:x}/{:x}/{}", d.address(), d.id(), static_cast<int>(d.kind())),
          d.name().empty() ? fmt::format("DSQ {:#x}", d.id()) : printable_utf8(d.name())};
}
Identity identity_of(const Task& t) {
  return {fmt::format("{}/{}/{:x}", t.pid(), t.comm(), t.address()), named(t.comm(), t.pid())};
}

template <typename List>
SectionChanges diff_list(std::string section, const List& before, const List& after) {
  SectionChanges changes;
  changes.section = std::move(section);
  using Item = typename List::value_type;
  std::map<std::string, const Item*> then;
  for (const Item& item : before) then.emplace(identity_of(item).key, &item);
  for (const Item& item : after) {
    Identity identity = identity_of(item);
    const auto found = then.find(identity.key);
    if (found == then.end()) {
      changes.objects.push_back({ObjectChange::Kind::kAdded, std::move(identity.name), {}});
      continue;
    }
    auto fields = values_of(*found->second).changes_to(values_of(item));
    then.erase(found);
    if (fields.empty()) {
      ++changes.unchanged;
    } else {
      changes.objects.push_back({ObjectChange::Kind::kChanged, std::move(identity.name), std::move(fields)});
    }
  }
  for (const Item& item : before) {
    Identity identity = identity_of(item);
    if (then.erase(identity.key) > 0) {
      changes.objects.push_back({ObjectChange::Kind::kRemoved, std::move(identity.name), {}});
    }
  }
  return changes;
}

std::string_view kind_name(ObjectChange::Kind kind) {
  return kind == ObjectChange::Kind::kAdded     ? "added"
         : kind == ObjectChange::Kind::kRemoved ? "removed"
                                                : "changed";
}

std::string shown(const FieldChange& change) {
  if (change.before.empty() && !change.after.empty())
    return fmt::format("{}: {}", change.field, change.after);
  if (change.after.empty())
    return fmt::format("{}: {}{}", change.field, change.before,
                       change.field.ends_with(" out") ? "" : " -> none");
  return fmt::format("{}: {} -> {}", change.field, change.before, change.after);
}

}  // namespace

std::vector<SectionChanges> diff_dumps(const Dump& before, const Dump& after) {
  std::vector<SectionChanges> sections;
  SectionChanges globals;
  globals.section = "globals";
  auto fields = values_of(before.globals()).changes_to(values_of(after.globals()));
  if (fields.empty()) {
    globals.unchanged = 1;
  } else {
    globals.objects.push_back({ObjectChange::Kind::kChanged, "sched_ext", std::move(fields)});
  }
  sections.push_back(std::move(globals));
  sections.push_back(diff_list("scheds", before.scheds(), after.scheds()));
  sections.push_back(diff_list("cpus", before.cpus(), after.cpus()));
  sections.push_back(diff_list("dsqs", before.dsqs(), after.dsqs()));
  sections.push_back(diff_list("tasks", before.tasks(), after.tasks()));
  return sections;
}

void write_diff_text(const std::vector<SectionChanges>& sections, DumpSink& sink) {
  bool any = false;
  for (const SectionChanges& section : sections) {
    if (section.objects.empty()) continue;
    any = true;
    sink.print("{} ({} unchanged)\n", section.section, section.unchanged);
    for (const ObjectChange& object : section.objects) {
      const char mark = object.kind == ObjectChange::Kind::kAdded     ? '+'
                        : object.kind == ObjectChange::Kind::kRemoved ? '-'
                                                                      : ' ';
      sink.print("{} {}", mark, object.name);
      for (std::size_t i = 0; i < object.fields.size(); ++i)
        sink.print("{}{}", i == 0 ? "  " : "; ", shown(object.fields[i]));
      sink.put('\n');
    }
  }
  if (!any) sink.put("no difference\n");
}

void write_diff_json(const std::vector<SectionChanges>& sections, DumpSink& sink) {
  sink.put('{');
  for (std::size_t s = 0; s < sections.size(); ++s) {
    const SectionChanges& section = sections[s];
    sink.print("{}\n  \"{}\": {{\"unchanged\":{},\"changes\":[", s == 0 ? "" : ",", section.section,
               section.unchanged);
    for (std::size_t i = 0; i < section.objects.size(); ++i) {
      const ObjectChange& object = section.objects[i];
      sink.print("{}\n    {{\"name\":", i == 0 ? "" : ",");
      put_json_string(sink, object.name);
      sink.print(",\"kind\":\"{}\",\"fields\":{{", kind_name(object.kind));
      for (std::size_t f = 0; f < object.fields.size(); ++f) {
        if (f > 0) sink.put(',');
        put_json_string(sink, object.fields[f].field);
        sink.put(":[");
        put_json_string(sink, object.fields[f].before);
        sink.put(',');
        put_json_string(sink, object.fields[f].after);
        sink.put(']');
      }
      sink.put("}}");
    }
    sink.put("]}");
  }
  sink.put("\n}\n");
}

}  // namespace ktstr
