#include "host/cli/dump_command.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <optional>

#include <fmt/format.h>

#include "common/quote.h"
#include "host/report/dump/dump_diff.h"
#include "host/report/dump/dump_file.h"
#include "host/report/dump/dump_json.h"
#include "host/report/dump/dump_query.h"
#include "host/report/dump/dump_text.h"

namespace ktstr {
namespace {

using ktstr::v1::Dump;

std::optional<std::uint64_t> parse_id(std::string_view text) {
  const bool hex = text.starts_with("0x");
  if (hex) text.remove_prefix(2);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The chosen objects one after the other, with an empty line between them as text.
class Selection {
 public:
  Selection(const Dump& dump, bool json, DumpSink& sink)
      : dump_(dump), json_(json), sink_(sink), lines_(dump), names_(dump) {}

  Expected<> cpu(std::uint32_t wanted) {
    for (const auto& cpu : dump_.cpus()) {
      if (cpu.cpu() == wanted) return put(cpu, [&] { write_cpu_text(lines_, cpu, sink_); });
    }
    return fail(ErrorCode::kUsage,
                fmt::format("the dump has no CPU {}; it has {} CPUs", wanted, dump_.cpus_size()));
  }
  Expected<> task(std::int32_t pid) {
    bool found = false;
    for (const auto& task : dump_.tasks()) {
      if (task.pid() != pid) continue;
      found = true;
      put(task, [&] { write_task_text(lines_, task, sink_); });
    }
    if (found) return {};
    return fail(ErrorCode::kUsage,
                fmt::format("the dump has no task with pid {} among its {}", pid, dump_.tasks_size()));
  }
  Expected<> dsq(const std::string& text) {
    const auto id = parse_id(text);
    if (!id)
      return fail(ErrorCode::kUsage,
                  fmt::format("{} is no DSQ id; a number like 7 or 0x7 would be right", quote(text)));
    bool found = false;
    for (const auto& dsq : dump_.dsqs()) {
      if (dsq.id() != *id) continue;
      found = true;
      put(dsq, [&] { write_dsq_text(dsq, sink_); });
    }
    if (found) return {};
    return fail(ErrorCode::kUsage,
                fmt::format("the dump has no DSQ {:#x} among its {}", *id, dump_.dsqs_size()));
  }

 private:
  template <typename Text>
  Expected<> put(const google::protobuf::Message& message, const Text& text) {
    if (json_) {
      write_message_json(message, names_, sink_);
      sink_.put('\n');
      return {};
    }
    if (!first_) sink_.put('\n');
    first_ = false;
    text();
    return {};
  }

  const Dump& dump_;
  bool json_;
  DumpSink& sink_;
  KernelLines lines_;
  EnumNames names_;
  bool first_ = true;
};

Expected<> show(const DumpRequest& request, const Dump& dump, DumpSink& sink) {
  if (request.cpus.empty() && request.pids.empty() && request.dsqs.empty()) {
    if (request.json) {
      write_dump_json(dump, sink);
    } else {
      write_dump_text(dump, {.all = request.all}, sink);
    }
    return {};
  }
  Selection selection(dump, request.json, sink);
  for (const std::uint32_t cpu : request.cpus) {
    if (auto done = selection.cpu(cpu); !done) return done;
  }
  for (const std::int32_t pid : request.pids) {
    if (auto done = selection.task(pid); !done) return done;
  }
  for (const std::string& id : request.dsqs) {
    if (auto done = selection.dsq(id); !done) return done;
  }
  return {};
}

Expected<> query(const DumpRequest& request, const Dump& dump, const Query& asked, DumpSink& sink) {
  if (request.count) {
    const auto count = count_query(dump, asked);
    if (!count) return std::unexpected(count.error());
    sink.print("{}\n", *count);
    return {};
  }
  const auto answer = run_query(dump, asked);
  if (!answer) return std::unexpected(answer.error());
  if (request.json) {
    write_answer_json(*answer, sink);
  } else {
    write_answer_table(*answer, sink);
  }
  return {};
}

Expected<> diff(const DumpRequest& request, const Dump& before, DumpSink& sink) {
  const auto after = read_dump(request.second);
  if (!after) return std::unexpected(after.error());
  const auto sections = diff_dumps(before, *after);
  if (request.json) {
    write_diff_json(sections, sink);
  } else {
    write_diff_text(sections, sink);
  }
  return {};
}

}  // namespace

void add_dump_options(CLI::App& command, DumpRequest& request) {
  using Action = DumpRequest::Action;
  const auto add = [&](const char* name, const char* what, Action action) {
    CLI::App* sub = command.add_subcommand(name, what);
    sub->callback([&request, action] { request.action = action; });
    sub->add_flag("--json", request.json, "JSON instead of text");
    return sub;
  };
  CLI::App* show = add("show", "Print a dump", Action::kShow);
  show->add_option("FILE", request.file, "dump-<n>.pb, or the .json or .txt beside it")->required();
  show->add_flag("--all", request.all,
                 "Sleeping tasks and empty queues one by one, and members without a name");
  show->add_option("--cpu", request.cpus, "Only this CPU (may be repeated)");
  show->add_option("--task", request.pids, "Only the task with this pid (may be repeated)");
  show->add_option("--dsq", request.dsqs, "Only the dispatch queue with this id (may be repeated)");
  CLI::App* diff = add("diff", "Print what changed from one dump to another", Action::kDiff);
  diff->add_option("BEFORE", request.file, "The earlier dump")->required();
  diff->add_option("AFTER", request.second, "The later dump")->required();
  CLI::App* query =
      add("query", "Ask a dump, e.g. 'tasks where where=on_dsq and waiting_ms>100 select pid,comm'",
          Action::kQuery);
  query->add_option("FILE", request.file, "The dump")->required();
  query->add_option("EXPR", request.expression, "SECTION [where FIELD OP VALUE [and ...]] [select FIELD,...]")
      ->required();
  query->add_flag("--count", request.count, "Only the number of rows");
  command.require_subcommand(0, 1);
}

Expected<> render_dump_command(const DumpRequest& request, DumpSink& sink) {
  using Action = DumpRequest::Action;
  if (request.action == Action::kNone) {
    return fail(ErrorCode::kUsage,
                "dump needs to know what to do: show, diff or query a file, or take one with --run DIR or "
                "--memory CORE; "
                "see ktstr-vm dump --help");
  }
  // A bad query is told before a large file is read.
  Query asked;
  if (request.action == Action::kQuery) {
    auto parsed = parse_query(request.expression);
    if (!parsed) return std::unexpected(std::move(parsed.error()));
    asked = std::move(*parsed);
  }
  const auto dump = read_dump(request.file);
  if (!dump) return std::unexpected(dump.error());
  if (request.action == Action::kQuery) return query(request, *dump, asked, sink);
  if (request.action == Action::kDiff) return diff(request, *dump, sink);
  return show(request, *dump, sink);
}

int dump_command(const DumpRequest& request) {
  DumpSink sink(DumpSink::to_fd(STDOUT_FILENO));
  const auto done = render_dump_command(request, sink);
  const int error = sink.finish();
  if (!done) {
    const Error& why = done.error();
    fmt::print(stderr, "ktstr-vm: {}\n",
               why.detail().empty() ? why.to_string() : why.to_string() + "\n" + why.detail());
    return static_cast<int>(why.code());
  }
  if (error != 0 && error != EPIPE) {
    fmt::print(stderr, "ktstr-vm: {}\n",
               Error::from_errno(ErrorCode::kHost, "cannot write to standard output", error).to_string());
    return static_cast<int>(ErrorCode::kHost);
  }
  return 0;
}

}  // namespace ktstr
