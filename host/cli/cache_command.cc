#include "host/cli/cache_command.h"

#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/quote.h"
#include "common/units.h"
#include "common/utc_time.h"
#include "host/snapshot/snapshot_manifest.h"

namespace ktstr {
namespace {

using Json = nlohmann::ordered_json;
using Entry = SnapshotCache::Entry;

// As long as messages show it; enough for `clear`.
constexpr std::size_t kShownKey = 8;
constexpr std::int64_t kSecond = 1'000'000'000;

// Whatever the file says may steer no terminal.
std::string shown(const std::string& text, std::size_t most = 40) {
  const std::string quoted = quote(text, most);
  return quoted.size() == text.size() + 2 ? text : quoted;
}

std::string input_of(const v1::SnapshotManifest& manifest, std::string_view name) {
  for (const auto& input : manifest.inputs()) {
    if (input.name() == name) return input.value();
  }
  return "";
}

std::string point_of(const v1::SnapshotManifest& manifest) {
  return point_name(manifest.point() == v1::SnapshotManifest::ATTACHED ? SnapshotPoint::kAttached
                                                                       : SnapshotPoint::kHello);
}

// "scx_lavd", from "scheduler file /bin/scx_lavd": of the files the first one that is no library.
std::string scheduler_of(const v1::SnapshotManifest& manifest) {
  constexpr std::string_view kPrefix = "scheduler file ";
  for (const auto& input : manifest.inputs()) {
    if (!input.name().starts_with(kPrefix) || input.name().find(".so") != std::string::npos) continue;
    const std::string path = input.name().substr(kPrefix.size());
    return path.substr(path.rfind('/') + 1);
  }
  return "";
}

std::string ago(std::int64_t used_ns, std::time_t now) {
  if (used_ns <= 0) return "unknown";
  const std::int64_t seconds = std::int64_t{now} - used_ns / kSecond;
  if (seconds < 60) return "just now";
  if (seconds < 2 * 3600) return fmt::format("{} min ago", seconds / 60);
  if (seconds < 2 * 86400) return fmt::format("{} h ago", seconds / 3600);
  return fmt::format("{} days ago", seconds / 86400);
}

std::string what_it_is(const Entry& entry) {
  if (entry.being_made) return entry.maker + " is making it";
  if (!entry.manifest) return "of no use: " + entry.problem;
  const auto& manifest = *entry.manifest;
  std::string text = fmt::format("{} {}", shown(input_of(manifest, "machine")), point_of(manifest));
  if (const std::string scheduler = scheduler_of(manifest); !scheduler.empty())
    text += " " + shown(scheduler);
  text += ", " + shown(manifest.facts().kernel_release());
  if (const std::string topology = input_of(manifest, "topology"); !topology.empty())
    text += ", " + shown(topology);
  return text;
}

std::string list_text(const std::vector<Entry>& entries, const SnapshotCache& cache, std::time_t now) {
  if (entries.empty()) return fmt::format("no snapshots in {}\n", quote(cache.root(), 300));
  std::string out =
      fmt::format("{:<8}  {:>9}  {:<13} {:<6}  {}\n", "KEY", "ON DISK", "LAST USED", "IN USE", "GUEST");
  std::uint64_t total = 0;
  for (const Entry& entry : entries) {
    total += entry.allocated;
    out += fmt::format("{:<8}  {:>9}  {:<13} {:<6}  {}\n", entry.key.substr(0, kShownKey),
                       format_size(entry.allocated), ago(entry.last_used_ns, now), entry.in_use ? "yes" : "",
                       what_it_is(entry));
  }
  out += fmt::format("{} in {} of at most {}, in {}\n",
                     entries.size() == 1 ? "1 snapshot" : fmt::format("{} snapshots", entries.size()),
                     format_size(total), format_size(cache.limit()), quote(cache.root(), 300));
  return out;
}

Json entry_json(const Entry& entry) {
  Json json = {
      {"key", entry.key},
      {"bytes_on_disk", entry.allocated},
      {"last_used", entry.last_used_ns > 0 ? Json(rfc3339(entry.last_used_ns / kSecond)) : Json(nullptr)},
      {"in_use", entry.in_use},
      {"being_made", entry.being_made},
      {"problem", entry.problem}};
  if (entry.manifest) {
    const auto& manifest = *entry.manifest;
    json["point"] = point_of(manifest);
    json["made_at"] = manifest.made_at();
    json["run"] = manifest.run_id();
    json["kernel"] = manifest.facts().kernel_release();
    json["scheduler"] = scheduler_of(manifest);
    json["ram_bytes"] = manifest.ram().size();
    json["state_bytes"] = manifest.state().size();
    json["kaslr"] = manifest.kaslr().enabled();
    json["inputs"] = Json::array();
    for (const NamedInput& input : inputs_of(manifest))
      json["inputs"].push_back({{"name", input.name}, {"value", input.value}});
  }
  return json;
}

std::string printed(const Json& json) {
  // Whatever a command line contains, the output is JSON.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Expected<std::string> list(const SnapshotCache& cache, bool json, std::time_t now) {
  const auto entries = cache.list();
  if (!entries) return std::unexpected(entries.error());
  if (!json) return list_text(*entries, cache, now);
  Json all = {{"folder", cache.root()}, {"limit_bytes", cache.limit()}, {"snapshots", Json::array()}};
  for (const Entry& entry : *entries) all["snapshots"].push_back(entry_json(entry));
  return printed(all);
}

Expected<std::string> clear(const SnapshotCache& cache, const CacheRequest& request) {
  const auto cleared = cache.clear(request.keys);
  if (!cleared) return std::unexpected(cleared.error());
  if (request.json)
    return printed({{"removed", cleared->removed}, {"bytes", cleared->bytes}, {"in_use", cleared->in_use}});
  const auto count = cleared->removed.size();
  std::string out =
      fmt::format("removed {} snapshot{}, {}\n", count, count == 1 ? "" : "s", format_size(cleared->bytes));
  for (const std::string& key : cleared->in_use)
    out += fmt::format("{} is in use and stays\n", key.substr(0, kShownKey));
  return out;
}

Expected<std::string> verify(const SnapshotCache& cache, bool json, int& exit_code) {
  const auto verified = cache.verify();
  if (!verified) return std::unexpected(verified.error());
  Json all = Json::array();
  std::string out;
  for (const auto& one : *verified) {
    if (!one.whole) exit_code = 1;
    all.push_back({{"key", one.key}, {"whole", one.whole}, {"problem", one.problem}});
    out += fmt::format("{}  {}\n", one.key.substr(0, kShownKey), one.whole ? "ok" : one.problem);
  }
  if (json) return printed(all);
  return out.empty() ? fmt::format("no snapshots in {}\n", quote(cache.root(), 300)) : out;
}

}  // namespace

void add_cache_options(CLI::App& command, CacheRequest& request) {
  using Action = CacheRequest::Action;
  const auto add = [&](const char* name, const char* what, Action action) {
    CLI::App* sub = command.add_subcommand(name, what);
    sub->callback([&request, action] { request.action = action; });
    sub->add_flag("--json", request.json, "JSON instead of text");
    return sub;
  };
  add("list", "List the snapshots, the one used last first", Action::kList);
  CLI::App* clear = add("clear", "Remove snapshots; those in use stay", Action::kClear);
  clear->add_option("KEY", request.keys,
                    "Beginning of a snapshot's key, at least 4 digits (default: all of them)");
  add("verify", "Read all of every snapshot, and throw away what is damaged", Action::kVerify);
  command.require_subcommand(0, 1);
}

Expected<std::string> render_cache_command(const CacheRequest& request, const SnapshotCache& cache,
                                           std::time_t now, int& exit_code) {
  using Action = CacheRequest::Action;
  exit_code = 0;
  switch (request.action) {
    case Action::kList:
      return list(cache, request.json, now);
    case Action::kClear:
      return clear(cache, request);
    case Action::kVerify:
      return verify(cache, request.json, exit_code);
    case Action::kNone:
      break;
  }
  return fail(ErrorCode::kUsage,
              "cache needs to know what to do: list, clear or verify; see ktstr-vm cache --help");
}

int cache_command(const CacheRequest& request) {
  int exit_code = 0;
  const auto text = render_cache_command(request, SnapshotCache(), std::time(nullptr), exit_code);
  if (!text) {
    fmt::print(stderr, "ktstr-vm: {}\n", text.error().to_string());
    return static_cast<int>(text.error().code());
  }
  fmt::print("{}", *text);
  return exit_code;
}

}  // namespace ktstr
