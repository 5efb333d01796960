#include "host/run/cloning.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include <fmt/format.h>

#include "common/read_file.h"
#include "common/utc_time.h"
#include "host/run/snapshot_inputs.h"

namespace ktstr {
namespace {

using std::chrono::nanoseconds;
using SteadyClock = std::chrono::steady_clock;

constexpr auto kPauseLimit = std::chrono::seconds(10);
// A key and its newline, some thousand times.
constexpr std::size_t kMaxAsked = std::size_t{64} << 10;
// Where a kernel that has not moved begins (arch/x86: __START_KERNEL with the default CONFIG_PHYSICAL_START).
constexpr std::uint64_t kLinkedText = 0xffffffff81000000;

std::string short_key(const std::string& key) {
  return key.substr(0, 8);
}

std::uint64_t realtime_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

UniqueFd copy_of(int fd) {
  return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

// Why this run is none for clones, whatever is in the cache; "" when it may be one.
std::string obstacle(const RunRequest& request, const Prepared& prepared) {
  if (prepared.plan.has_deterministic()) return "a deterministic run boots: a clone is not deterministic";
  if (request.clone == RunRequest::Clone::kNever) return "--clone never";
  if (request.pages != RamPages::kNormal) return "the guest's memory is in large pages (--pages)";
  return {};
}

}  // namespace

Expected<Cloning> Cloning::decide(const RunRequest& request, const Prepared& prepared,
                                  const Machine& machine) {
  const Wish wish{.always = request.clone == RunRequest::Clone::kAlways,
                  .scheduler = prepared.plan.has_scheduler(),
                  .kaslr = request.kaslr};
  std::string why = obstacle(request, prepared);
  if (!why.empty() && wish.always) return fail(ErrorCode::kUsage, "--clone always: " + why);
  Expected<SnapshotInputs> inputs;
  if (why.empty()) {
    inputs = snapshot_inputs(prepared, machine);
    if (inputs) return decide(wish, std::move(*inputs), SnapshotCache());
    if (wish.always) return propagate(std::move(inputs.error()), "--clone always");
    why = inputs.error().to_string();
  }
  Cloning cloning(wish, {}, SnapshotCache());
  cloning.record_.set_booted_because(why);
  if (!inputs) cloning.warn(why);
  return cloning;
}

Expected<Cloning> Cloning::decide(const Wish& wish, SnapshotInputs inputs, SnapshotCache cache) {
  Cloning cloning(wish, std::move(inputs), std::move(cache));
  if (auto chosen = cloning.choose(); !chosen) return std::unexpected(std::move(chosen.error()));
  return cloning;
}

Expected<void> Cloning::choose() {
  if (wish_.scheduler && look_up(SnapshotPoint::kAttached)) return {};
  const bool hello = useless_.empty() && look_up(SnapshotPoint::kHello);
  if (!useless_.empty()) {
    if (wish_.always) return fail(ErrorCode::kHost, "--clone always: " + useless_);
    record_.set_booted_because(useless_);
    warn(useless_);
    return {};
  }
  if (!hello) {
    const std::string none = cache_.why_none(inputs_at(SnapshotPoint::kHello));
    if (wish_.always) return fail(ErrorCode::kHost, "--clone always: " + none);
    record_.set_booted_because(none);
  } else {
    const bool again =
        wish_.scheduler && !wish_.always &&
        AskedKeys(cache_.root() + "-asked").ask(snapshot_key(inputs_at(SnapshotPoint::kAttached)));
    if (!again) return {};
    snapshot_.reset();
    record_.Clear();
    record_.set_booted_because(
        "the same scheduler has been run before: booted once more to keep it attached");
  }
  keeps_hello_ = !hello;
  keeps_attached_ = wish_.scheduler;
  return {};
}

SnapshotInputs Cloning::inputs_at(SnapshotPoint point) const {
  SnapshotInputs inputs = inputs_;
  inputs.point = point;
  return inputs;
}

bool Cloning::look_up(SnapshotPoint point) {
  auto found = cache_.find(snapshot_key(inputs_at(point)));
  if (!found) {
    useless_ = found.error().to_string();
    return false;
  }
  if (!found->thrown_away.empty()) warn(found->thrown_away);
  if (!found->snapshot) return false;
  snapshot_ = std::move(found->snapshot);
  point_ = point;
  describe_clone();
  return true;
}

void Cloning::describe_clone() {
  const auto& manifest = snapshot_->manifest;
  record_.Clear();
  record_.set_snapshot(manifest.key());
  record_.set_point(point_name(point_));
  record_.set_made_at(manifest.made_at());
  record_.set_made_by(manifest.run_id());
  const std::uint64_t now = realtime_ns();
  record_.set_age_s((now - std::min<std::uint64_t>(manifest.guest_realtime_ns(), now)) / 1'000'000'000U);
  if (!manifest.kaslr().enabled()) return;
  record_.set_inherited(
      fmt::format("the kernel's random address (--kaslr) is that of the snapshot {} made {}: moved by {:#x}",
                  short_key(manifest.key()), manifest.made_at(), manifest.kaslr().text_slide()));
}

Expected<SnapshotFiles> Cloning::files() const {
  SnapshotFiles files{copy_of(snapshot_->ram.get()), copy_of(snapshot_->state.get())};
  if (!files.ram || !files.state)
    return fail_errno(ErrorCode::kHost, "cannot hand a snapshot to the machine");
  return files;
}

void Cloning::give_up(const std::string& why, bool damaged) {
  keeps_hello_ = keeps_attached_ = false;
  if (!snapshot_) return;
  const std::string key = snapshot_->manifest.key();
  snapshot_.reset();
  record_.Clear();
  record_.set_booted_because(fmt::format("the snapshot {} is of no use: {}", short_key(key), why));
  warn(record_.booted_because());
  // Another run may use it at this moment, and then it stays.
  if (!damaged) return;
  // Of kUsage: another run was faster.
  if (auto cleared = cache_.clear({key}); !cleared && cleared.error().code() != ErrorCode::kUsage)
    warn(cleared.error().to_string());
}

bool Cloning::keeps(SnapshotPoint point) const {
  return point == SnapshotPoint::kAttached ? keeps_attached_ : keeps_hello_;
}

Expected<void> Cloning::save(SnapshotPoint point, Machine& machine, const Guest& guest) {
  (point == SnapshotPoint::kAttached ? keeps_attached_ : keeps_hello_) = false;
  const SnapshotInputs inputs = inputs_at(point);
  auto& record = *record_.add_saved();
  record.set_point(point_name(point));
  record.set_key(snapshot_key(inputs));
  const auto failed = [&](const Error& error) {
    record.set_failed(error.to_string());
    // What a machine cannot do it never can, and nobody need read that after each run.
    if (error.code() != ErrorCode::kUsage) warn("the guest is not kept: " + record.failed());
    keeps_attached_ = false;  // nor would that go well
  };
  auto begun = cache_.begin(inputs);
  if (!begun || !begun->writer) {
    // That another process makes it is nobody's trouble.
    begun ? record.set_failed(begun->reason) : failed(begun.error());
    return {};
  }
  const auto start = SteadyClock::now();
  auto checksum = write_stopped(machine, *begun->writer);
  auto resumed = machine.resume();
  const nanoseconds took = SteadyClock::now() - start;
  stood_still_ += took;
  record.set_stood_still_ns(static_cast<std::uint64_t>(took.count()));
  if (!resumed) return propagate(std::move(resumed.error()), "letting the guest go on that was saved");
  if (!checksum) {
    failed(checksum.error());
  } else if (auto done = begun->writer->commit(describe_guest(guest), std::move(*checksum)); !done) {
    failed(done.error());
  }
  return {};
}

Expected<std::string> Cloning::write_stopped(Machine& machine, const SnapshotWriter& writer) {
  const auto paused = machine.pause(kPauseLimit);
  if (!paused) return std::unexpected(paused.error());
  if (!paused->missing.empty()) return fail(ErrorCode::kHost, "not all of its CPUs could be stopped");
  const SnapshotFiles files{copy_of(writer.ram()), copy_of(writer.state())};
  if (!files.ram || !files.state) return fail_errno(ErrorCode::kHost, "cannot hand files to the machine");
  return machine.save(files);
}

ktstr::v1::SnapshotManifest Cloning::describe_guest(const Guest& guest) const {
  ktstr::v1::SnapshotManifest manifest;
  manifest.set_made_at(rfc3339_now());
  manifest.set_run_id(guest.run_id);
  *manifest.mutable_facts() = guest.facts;
  manifest.mutable_kaslr()->set_enabled(wish_.kaslr);
  if (wish_.kaslr && guest.facts.text_kva() >= kLinkedText)
    manifest.mutable_kaslr()->set_text_slide(guest.facts.text_kva() - kLinkedText);
  manifest.set_guest_monotonic_ns(guest.monotonic_ns);
  manifest.set_guest_realtime_ns(realtime_ns());
  return manifest;
}

void Cloning::warn(const std::string& text) {
  if (std::find(warnings_.begin(), warnings_.end(), text) == warnings_.end()) warnings_.push_back(text);
}

bool AskedKeys::ask(const std::string& key) const {
  const std::string known = read_file(path_, kMaxAsked).value_or("");
  if (known.find(key + "\n") != std::string::npos) return true;
  const bool full = known.size() + key.size() + 1 > kMaxAsked;
  const UniqueFd fd(
      ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (full ? O_TRUNC : 0), 0600));
  const std::string line = key + "\n";
  // One write: lines of other processes do not come in between.
  if (fd) static_cast<void>(::write(fd.get(), line.data(), line.size()) < 0);
  return false;
}

}  // namespace ktstr
