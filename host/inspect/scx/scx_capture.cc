#include "host/inspect/scx/scx_capture.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string_view>

#include <fmt/format.h>

#include "host/inspect/walk/kva_set.h"
#include "host/inspect/walk/object_tree.h"
#include "host/inspect/walk/rb_tree.h"
#include "host/inspect/walk/rhashtable.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kMaxCgroupDepth = 64;

constexpr std::array<std::string_view, 3> kKickSyncs = {"scx_kick_syncs", "scx_kick_pseqs",
                                                        "scx_kick_cpus_pnt_seqs"};

class ScxWalk {
 public:
  ScxWalk(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory, CapturedMemory& captured,
          const CaptureHints& hints, const CaptureLimits& limits)
      : plan_(plan),
        kernel_(kernel),
        memory_(memory),
        captured_(captured),
        hints_(hints),
        limits_(limits),
        budget_(limits.bytes, limits.reads) {}

  ScxObjects run() {
    objects_.nr_cpu_ids =
        static_cast<std::uint32_t>(std::min<std::size_t>(kernel_.per_cpu_offsets().size(), plan_.max_cpus));
    globals();
    idle_masks();
    cpus();
    scheds();
    for (const SchedObjects& sched : objects_.scheds) sched_dsqs(sched.sched);
    if (plan_.sched.legacy) legacy_dsqs();
    scx_tasks();
    task_tree();
    if (names_functions_only()) {
      scheds_of_tasks();
      dsqs_of_tasks();
    }
    for (const TaskObjects& task : objects_.tasks) sleeping_stack(task.task);
    if (budget_.exhausted()) objects_.incomplete = "the budget of reads ran out";
    return std::move(objects_);
  }

 private:
  void absent(std::string_view what, std::string reason) {
    auto& absence = objects_.absent.emplace_back();
    absence.set_what(std::string(what));
    absence.set_reason(std::move(reason));
  }
  bool names_functions_only() const { return kernel_.symbols().source() == SymbolSource::kImage; }
  void flaw(std::string path, std::string text) {
    if (objects_.flaws.size() >= FaultLog::kMax) return;
    objects_.flaws.push_back({std::move(path), std::move(text)});
  }

  Kva pointer(Kva at) {
    const auto value = memory_.read<Kva>(at, budget_);
    return value ? *value : Kva();
  }
  Kva pointer(Kva object, const std::optional<Place>& place) {
    return place ? pointer(object + place->offset) : Kva();
  }
  void keep(Kva kva, std::uint64_t size) {
    // What could not be copied is a fault when it is looked for.
    [[maybe_unused]] const auto kept = captured_.capture(memory_, kva, size, budget_);
  }

  void globals() {
    for (const GlobalField& global : plan_.globals) {
      for (const GlobalField::Choice& choice : global.choices) {
        const auto at = kernel_.symbol(choice.symbol);
        if (!at) continue;
        keep(*at, choice.size);
        break;
      }
    }
  }

  void idle_mask_pair(Kva masks) {
    for (const std::uint64_t offset : {plan_.idle_cpu, plan_.idle_smt}) {
      if (!plan_.masks_are_pointers) {
        keep(masks + offset, plan_.mask_bytes());
        continue;
      }
      keep(masks + offset, 8);
      if (const Kva mask = pointer(masks + offset); mask.value() != 0) keep(mask, plan_.mask_bytes());
    }
  }

  void idle_masks() {
    for (const std::string_view name : kIdleMasks) {
      if (const auto at = kernel_.symbol(name)) {
        idle_mask_pair(*at);
        break;
      }
    }
    const auto by_node = kernel_.symbol("scx_idle_node_masks");
    if (names_functions_only() && !by_node)
      absent("idle masks", kernel_.symbols().lacks(fmt::format("{}", fmt::join(kIdleMasks, ", "))));
    if (!by_node) return;
    keep(*by_node, 8);
    const Kva table = pointer(*by_node);
    if (table.value() == 0) return;
    for (std::uint32_t node = 0; node < nodes(); ++node) {
      keep(table + 8 * node, 8);
      if (const Kva masks = pointer(table + 8 * node); masks.value() != 0) idle_mask_pair(masks);
    }
  }

  std::uint32_t nodes() {
    const auto at = kernel_.symbol("nr_node_ids");
    if (!at) return 1;
    const auto count = memory_.read<std::uint32_t>(*at, budget_);
    if (!count) return 1;
    keep(*at, 4);
    return std::clamp<std::uint32_t>(*count, 1, kMaxNumaNodes);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // CPUs

  void cpus() {
    if (!plan_.rq.layout.known()) return;  // the layout says why
    if (kernel_.per_cpu_offsets().empty())
      return absent("CPUs", "the kernel has not set up its per-CPU areas");
    for (std::uint32_t cpu = 0; cpu < objects_.nr_cpu_ids; ++cpu) {
      if (const auto rq = kernel_.per_cpu("runqueues", cpu)) one_cpu(cpu, *rq);
    }
  }

  void one_cpu(std::uint32_t cpu, Kva rq) {
    const RqPlan& plan = plan_.rq;
    CpuObjects& objects = objects_.cpus.emplace_back();
    objects.cpu = cpu;
    objects.rq = rq;
    if (!plan.layout.capture(captured_, memory_, rq, budget_))
      flaw(fmt::format("rq of CPU {}", cpu), "cannot be read");
    objects.curr = pointer(rq, plan.curr);
    objects.donor = pointer(rq, plan.donor);
    objects.idle = pointer(rq, plan.idle);
    objects.sub_dispatch_prev = pointer(rq, plan.sub_dispatch_prev);
    if (plan.runnable_list && plan_.task.runnable_node) runnable_list(objects);
    objects.deferred_locals = length(rq, plan.ddsp_deferred_locals);
    objects.deferred_reenq_locals = length(rq, plan.deferred_reenq_locals);
    objects.deferred_reenq_users = length(rq, plan.deferred_reenq_users);
    per_cpu_variables(objects);
    for (const Kva task : {objects.curr, objects.donor, objects.sub_dispatch_prev})
      add_task(task, TaskSource::kCurrent);
    add_task(objects.idle, TaskSource::kIdle);
    running_stack(objects);
    // Adding to `dsqs` and `tasks` leaves `objects` where it is.
    one_dsq(rq, plan.local_dsq, ktstr::v1::Dsq::LOCAL, cpu, Kva());
    one_dsq(rq, plan.bypass_dsq, ktstr::v1::Dsq::BYPASS, cpu, Kva());
    one_dsq(rq, plan.reject_dsq, ktstr::v1::Dsq::REJECT, cpu, Kva());
    one_dsq(rq, plan.rescue_dsq, ktstr::v1::Dsq::RESCUE, cpu, Kva());
  }

  void runnable_list(CpuObjects& objects) {
    walk_list(memory_, budget_, objects.rq + plan_.rq.runnable_list->offset, limits_.max_tasks, list_);
    for (const Kva node : list_.nodes) {
      const Kva task = node - plan_.task.runnable_node->offset;
      objects.runnable.push_back(task);
      add_task(task, TaskSource::kRunnableList);
    }
    if (list_.broken && list_.broken->kind != WalkBreak::Kind::kUninitialised)
      objects.runnable_broken = list_.broken->to_string();
  }

  std::size_t length(Kva object, const std::optional<Place>& list) {
    if (!list) return 0;
    walk_list(memory_, budget_, object + list->offset, limits_.max_tasks, list_);
    return list_.nodes.size();
  }

  void per_cpu_variables(CpuObjects& objects) {
    const std::uint32_t cpu = objects.cpu;
    for (const std::string_view name : kKickSyncs) {
      const auto array = per_cpu_array(name, cpu);
      if (!array) continue;
      objects.kick_syncs = *array + plan_.kick_syncs_offset;
      keep(objects.kick_syncs, std::uint64_t{8} * objects_.nr_cpu_ids);
      break;
    }
    if (const auto at = kernel_.per_cpu("scx_locked_rq_state", cpu)) objects.locked_rq = pointer(*at);
    if (const auto at = kernel_.per_cpu("direct_dispatch_task", cpu))
      objects.direct_dispatch_task = pointer(*at);
    // To 7.0 a CPU has one dispatch buffer for all schedulers.
    if (const auto buffer = per_cpu_array("scx_dsp_ctx", cpu)) {
      objects.dispatch_buffer = *buffer;
      dispatch_buffer(*buffer);
    }
  }

  bool is_per_cpu(std::string_view name) const {
    const auto address = kernel_.symbols().find(name);
    const auto begin = kernel_.symbols().find("__per_cpu_start");
    const auto end = kernel_.symbols().find("__per_cpu_end");
    return address && begin && end && *address >= *begin && *address < *end;
  }

  // What a variable of this CPU points to: the variable may be per-CPU itself, or a plain one that holds the
  // address of a per-CPU area.
  std::optional<Kva> per_cpu_array(std::string_view name, std::uint32_t cpu) {
    if (is_per_cpu(name)) {
      const auto at = kernel_.per_cpu(name, cpu);
      const Kva array = at ? pointer(*at) : Kva();
      return array.value() != 0 ? std::optional(array) : std::nullopt;
    }
    const auto at = kernel_.symbol(name);
    const Kva area = at ? pointer(*at) : Kva();
    return area.value() != 0 ? kernel_.per_cpu_pointer(area, cpu) : std::nullopt;
  }

  void dispatch_buffer(Kva context) {
    if (!plan_.dispatch_buffer) return;
    const DispatchBufferPlan& plan = *plan_.dispatch_buffer;
    keep(context + plan.cursor, sizeof(std::uint32_t));
    const auto cursor = memory_.read<std::uint32_t>(context + plan.cursor, budget_);
    for (std::uint32_t i = 0; cursor && i < std::min(*cursor, kMaxDispatchEntries); ++i) {
      const Kva entry = context + plan.entries + i * plan.entry.type().size;
      plan.entry.capture(captured_, memory_, entry, budget_);
      add_task(pointer(entry + plan.task), TaskSource::kDispatchBuffer);
    }
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Schedulers

  void scheds() {
    if (plan_.sched.legacy) return legacy_sched();
    const auto root = kernel_.symbol("scx_root");
    if (!root) absent("scx_root", kernel_.symbols().lacks("scx_root"));
    const Kva first = root ? pointer(*root) : Kva();
    if (first.value() == 0 && hints_.sched.value() == 0) {
      if (root) absent("schedulers", "scx_root is NULL: no scheduler is attached");
    }
    sched_tree(first);
    // Those that the tree does not lead to: being attached, or on their way out.
    if (const auto all = kernel_.symbol("scx_sched_all"); all && plan_.sched.all) {
      const ListContents list = walk_list(memory_, budget_, *all, limits_.max_scheds);
      note_break("scx_sched_all", list);
      for (const Kva node : list.nodes) add_sched(node - plan_.sched.all->offset, Kva());
    }
    add_sched(hints_.sched, Kva());
  }

  void sched_tree(Kva root) {
    if (root.value() == 0 || !plan_.sched.children || !plan_.sched.sibling) return add_sched(root, Kva());
    const ObjectTree tree =
        walk_object_tree(memory_, budget_, root, {plan_.sched.children->offset, plan_.sched.sibling->offset},
                         limits_.max_scheds);
    for (const WalkBreak& broken : tree.breaks) flaw("scheduler tree, " + broken.path, broken.what());
    for (const TreeObject& one : tree.objects)
      add_sched(one.object, one.depth == 0 ? Kva() : tree.objects[one.parent].object);
  }

  void note_break(std::string path, const ListContents& list) {
    if (list.broken && list.broken->kind != WalkBreak::Kind::kUninitialised)
      flaw(std::move(path), list.broken->to_string());
  }

  void add_sched(Kva sched, Kva parent) {
    if (sched.value() == 0 || objects_.scheds.size() >= limits_.max_scheds || !seen_scheds_.insert(sched))
      return;
    if (!plan_.sched.layout.capture(captured_, memory_, sched, budget_))
      flaw(fmt::format("scheduler {}", sched), "cannot be read whole");
    SchedObjects objects{sched, parent, {}, {}};
    objects.exit_info = capture_exit_info(plan_, kernel_, memory_, captured_, sched, budget_);
    const Kva pcpu = pointer(sched, plan_.sched.pcpu);
    const Kva stats = pointer(sched, plan_.sched.event_stats_cpu);
    for (std::uint32_t cpu = 0; cpu < objects_.nr_cpu_ids; ++cpu) {
      if (pcpu.value() != 0 || stats.value() != 0) sched_cpu(objects, cpu, pcpu, stats);
    }
    objects_.scheds.push_back(std::move(objects));
  }

  void sched_cpu(SchedObjects& objects, std::uint32_t cpu, Kva pcpu, Kva stats) {
    const SchedCpuPlan& plan = plan_.sched_cpu;
    SchedCpuObjects one{cpu, {}, {}};
    if (const auto area = pcpu.value() != 0 ? kernel_.per_cpu_pointer(pcpu, cpu) : std::nullopt) {
      one.pcpu = *area;
      if (!plan.layout.capture(captured_, memory_, *area, budget_))
        flaw(fmt::format("scheduler {}, CPU {}", objects.sched, cpu), "cannot be read whole");
      if (plan.event_stats) one.event_stats = *area + plan.event_stats->offset;
      if (plan.dispatch_context) dispatch_buffer(*area + plan.dispatch_context->offset);
      one_dsq(*area, plan.bypass_dsq, ktstr::v1::Dsq::BYPASS, cpu, objects.sched);
    } else if (const auto counters =
                   stats.value() != 0 ? kernel_.per_cpu_pointer(stats, cpu) : std::nullopt) {
      one.event_stats = *counters;
    } else {
      return;
    }
    if (one.event_stats.value() != 0) keep(one.event_stats, plan_.event_stats_size);
    objects.cpus.push_back(one);
  }

  // Before 6.16: one scheduler, in globals.
  void legacy_sched() {
    auto ops = kernel_.symbol("scx_ops");
    if (!ops)
      return absent("schedulers", "there is no struct scx_sched, and " + kernel_.symbols().lacks("scx_ops"));
    plan_.sched.layout.capture(captured_, memory_, *ops, budget_);
    SchedObjects objects{*ops, {}, {}, {}};
    objects.exit_info = capture_exit_info(plan_, kernel_, memory_, captured_, Kva(), budget_);
    for (std::uint32_t cpu = 0; cpu < objects_.nr_cpu_ids; ++cpu) {
      const auto stats = kernel_.per_cpu("event_stats_cpu", cpu);
      if (!stats || plan_.event_stats_size == 0) continue;
      keep(*stats, plan_.event_stats_size);
      objects.cpus.push_back({cpu, {}, *stats});
    }
    objects_.scheds.push_back(std::move(objects));
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Dispatch queues

  void sched_dsqs(Kva sched) {
    if (const Kva table = pointer(sched, plan_.sched.pnode); table.value() != 0 && plan_.pnode_global_dsq)
      global_dsqs(table, plan_.pnode_global_dsq->offset, sched);
    if (const Kva table = pointer(sched, plan_.sched.global_dsqs); table.value() != 0)
      global_dsqs(table, 0, sched);
    if (plan_.sched.dsq_hash) user_dsqs(sched + plan_.sched.dsq_hash->offset, sched);
  }

  void legacy_dsqs() {
    if (const auto globals = kernel_.symbol("global_dsqs")) {
      if (const Kva table = pointer(*globals); table.value() != 0) global_dsqs(table, 0, Kva());
    } else {
      absent("global DSQs", kernel_.symbols().lacks("global_dsqs"));
    }
    if (const auto table = kernel_.symbol("dsq_hash"))
      user_dsqs(*table, Kva());
    else
      absent("user DSQs", kernel_.symbols().lacks("dsq_hash"));
  }

  void global_dsqs(Kva table, std::uint64_t offset, Kva sched) {
    const std::uint32_t count = nodes();
    for (std::uint32_t node = 0; node < count; ++node) {
      const Kva entry = pointer(table + 8 * node);
      if (entry.value() != 0) add_dsq(entry + offset, ktstr::v1::Dsq::GLOBAL, node, sched);
    }
  }

  void user_dsqs(Kva table, Kva sched) {
    if (!plan_.dsq_table || !plan_.dsq.hash_node)
      return absent("user DSQs", "struct rhashtable is not as it was");
    const RhashtableContents contents =
        walk_rhashtable(memory_, budget_, table, *plan_.dsq_table, {.nodes = limits_.max_dsqs});
    for (const WalkBreak& broken : contents.breaks.kept) {
      // A table that was never made is no damage: no scheduler has been attached yet.
      if (broken.kind != WalkBreak::Kind::kUninitialised) flaw("dsq_hash." + broken.path, broken.what());
    }
    for (const Kva node : contents.nodes)
      add_dsq(node - plan_.dsq.hash_node->offset, ktstr::v1::Dsq::USER, std::nullopt, sched);
  }

  void one_dsq(Kva object, const std::optional<Place>& place, ktstr::v1::Dsq::Kind kind, std::uint32_t index,
               Kva sched) {
    if (place) add_dsq(object + place->offset, kind, index, sched);
  }

  void add_dsq(Kva dsq, ktstr::v1::Dsq::Kind kind, std::optional<std::uint32_t> index, Kva sched) {
    if (!plan_.dsq.layout.known() || !plan_.dsq.list || objects_.dsqs.size() >= limits_.max_dsqs) return;
    DsqObjects objects;
    objects.dsq = dsq;
    objects.kind = kind;
    objects.index = index;
    objects.sched = sched;
    if (!plan_.dsq.layout.capture(captured_, memory_, dsq, budget_)) {
      objects.broken = "the queue cannot be read";
      objects_.dsqs.push_back(std::move(objects));
      return;
    }
    walk_list(memory_, budget_, dsq + plan_.dsq.list->offset, limits_.max_tasks, list_);
    if (list_.broken && list_.broken->kind != WalkBreak::Kind::kUninitialised)
      objects.broken = list_.broken->to_string();
    for (const Kva node : list_.nodes) dsq_entry(objects, node);
    priq(objects);
    objects_.dsqs.push_back(std::move(objects));
  }

  void dsq_entry(DsqObjects& objects, Kva node) {
    const TaskPlan& plan = plan_.task;
    if (!plan.dsq_node) return;
    if (plan.dsq_node_flags) {
      const auto flags =
          memory_.read<std::uint32_t>(node + (plan.dsq_node_flags->offset - plan.dsq_node->offset), budget_);
      if (flags && (*flags & plan_.constants.lnode_cursor) != 0) {
        ++objects.cursors;
        return;
      }
    }
    const Kva task = node - plan.dsq_node->offset;
    objects.tasks.push_back(task);
    add_task(task, TaskSource::kDsq);
  }

  void priq(DsqObjects& objects) {
    if (!plan_.dsq.priq || !plan_.task.dsq_priq) return;
    const RbTreeContents tree =
        walk_rb_tree(memory_, budget_, objects.dsq + plan_.dsq.priq->offset, limits_.max_tasks);
    objects.priq_nodes = tree.nodes.size();
    if (tree.broken) objects.priq_broken = tree.broken->to_string();
    if (tree.nodes.empty() || objects.priq_broken || objects.broken) return;
    objects.priq_order_differs =
        !std::equal(tree.nodes.begin(), tree.nodes.end(), objects.tasks.begin(), objects.tasks.end(),
                    [&](Kva node, Kva task) { return node - plan_.task.dsq_priq->offset == task; });
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Tasks

  void add_task(Kva task, TaskSource source) {
    if (task.value() == 0 || !plan_.task.layout.known()) return;
    const auto [known, fresh] = objects_.task_index.try_emplace(task, objects_.tasks.size());
    if (!fresh) {
      objects_.tasks[known->second].sources |= static_cast<std::uint8_t>(source);
      return;
    }
    if (objects_.tasks.size() >= limits_.max_tasks) {
      objects_.task_index.erase(known);
      objects_.incomplete = fmt::format("more than {} tasks", limits_.max_tasks);
      return;
    }
    objects_.tasks.push_back({task, static_cast<std::uint8_t>(source)});
    if (!plan_.task.layout.capture(captured_, memory_, task, budget_))
      flaw(fmt::format("task {}", task), "cannot be read whole");
    cgroup(task);
  }

  void scx_tasks() {
    auto head = kernel_.symbol("scx_tasks");
    if (!head) head = scx_tasks_by_ring();
    if (!head) return absent("scx_tasks", kernel_.symbols().lacks("scx_tasks"));
    if (!plan_.task.tasks_node || !plan_.task.flags) return;
    const ListContents list = walk_list(memory_, budget_, *head, limits_.max_tasks);
    note_break("scx_tasks", list);
    objects_.scx_tasks_walked = true;
    for (const Kva node : list.nodes) {
      const Kva task = node - plan_.task.tasks_node->offset;
      const auto flags = memory_.read<std::uint32_t>(task + plan_.task.flags->offset, budget_);
      if (!flags) {
        flaw(fmt::format("scx_tasks entry {}", node), flags.error().to_string());
        continue;
      }
      if ((*flags & plan_.constants.task_cursor) != 0) continue;  // no task around it
      add_task(task, TaskSource::kScxTasks);
    }
  }

  // In an image that does not name it: every task but the idle ones is on that list, whose head is the only
  // node in the kernel's image. Where the ring does not lead to such a node, nothing is found.
  std::optional<Kva> scx_tasks_by_ring() {
    const auto init = kernel_.symbol("init_task"), begin = kernel_.symbol("_text"),
               end = kernel_.symbol("_end");
    if (!names_functions_only() || !init || !begin || !end || !plan_.task.tasks || !plan_.task.tasks_node)
      return std::nullopt;
    const Kva first =
        pointer(*init + plan_.task.tasks->offset) - plan_.task.tasks->offset + plan_.task.tasks_node->offset;
    Kva node = pointer(first);
    for (std::size_t i = 0; i < limits_.max_tasks && node.value() != 0 && node != first; ++i) {
      if (node >= *begin && node < *end) return node;
      node = pointer(node);
    }
    return std::nullopt;
  }

  // In an image that does not name scx_root: the schedulers of the tasks that have one. A task that is back
  // in another class may still point to one that is gone.
  void scheds_of_tasks() {
    const auto class_at = kernel_.types()->place("task_struct", "sched_class");
    const auto sched_at = kernel_.types()->place("task_struct", "scx.sched");
    const auto ext = kernel_.symbol("ext_sched_class");
    if (!class_at || !sched_at || !ext) return;
    for (std::size_t i = 0; i < objects_.tasks.size(); ++i) {  // grows by what is on the queues
      const Kva task = objects_.tasks[i].task;
      if (pointer(task + class_at->offset) != *ext) continue;
      const std::size_t before = objects_.scheds.size();
      add_sched(pointer(task + sched_at->offset), Kva());
      if (objects_.scheds.size() > before) sched_dsqs(objects_.scheds[before].sched);
    }
  }

  // In an image that names neither global_dsqs nor dsq_hash, nor leads to a scheduler: the queues that tasks
  // are on.
  void dsqs_of_tasks() {
    const auto dsq_at = kernel_.types()->place("task_struct", "scx.dsq");
    if (!dsq_at || !plan_.dsq.id) return;
    const std::uint64_t builtin = std::uint64_t{1} << 63;  // SCX_DSQ_FLAG_BUILTIN
    const std::uint64_t global =
        kernel_.types()->enumerator("SCX_DSQ_GLOBAL", builtin | 1).value_or(builtin | 1);
    KvaSet seen;
    for (const DsqObjects& known : objects_.dsqs) static_cast<void>(seen.insert(known.dsq));
    for (std::size_t i = 0; i < objects_.tasks.size(); ++i) {
      const Kva dsq = pointer(objects_.tasks[i].task + dsq_at->offset);
      if (dsq.value() == 0 || !seen.insert(dsq)) continue;
      const auto id = memory_.read<std::uint64_t>(dsq + plan_.dsq.id->offset, budget_);
      if (id && (*id & builtin) == 0)
        add_dsq(dsq, ktstr::v1::Dsq::USER, std::nullopt, Kva());
      else if (id && *id == global)
        add_dsq(dsq, ktstr::v1::Dsq::GLOBAL, nodes() == 1 ? std::optional(0U) : std::nullopt, Kva());
    }
  }

  void task_tree() {
    const auto init = kernel_.symbol("init_task");
    if (!init) return absent("the task tree", kernel_.symbols().lacks("init_task"));
    if (!plan_.task.tasks) return;
    add_tree_task(*init);
    const ListContents leaders =
        walk_list(memory_, budget_, *init + plan_.task.tasks->offset, limits_.max_tasks);
    note_break("init_task.tasks", leaders);
    objects_.task_tree_walked = true;
    for (const Kva node : leaders.nodes) threads_of(node - plan_.task.tasks->offset);
  }

  void add_tree_task(Kva task) { add_task(task, TaskSource::kTaskTree); }

  void threads_of(Kva leader) {
    const Kva signal = plan_.task.has_threads ? pointer(leader, plan_.task.signal) : Kva();
    if (signal.value() == 0) return add_tree_task(leader);
    walk_list(memory_, budget_, signal + plan_.task.thread_head, limits_.max_tasks, list_);
    if (list_.broken) flaw(fmt::format("threads of task {}", leader), list_.broken->to_string());
    bool leader_found = false;
    for (const Kva node : list_.nodes) {
      const Kva task = node - plan_.task.thread_node->offset;
      leader_found = leader_found || task == leader;
      add_tree_task(task);
    }
    if (!leader_found) add_tree_task(leader);
  }

  // Of tasks that do not run the stack is interesting from the saved stack pointer on.
  void sleeping_stack(Kva task) {
    const TaskPlan& plan = plan_.task;
    if (!plan.stack || !plan.thread_sp) return;
    const Kva stack = pointer(task, plan.stack);
    const Kva sp = pointer(task, plan.thread_sp);
    if (stack.value() == 0 || sp < stack || sp - stack >= plan.stack_bytes) return;
    keep(sp, std::min(plan.stack_bytes - (sp - stack), limits_.stack_bytes));
  }

  // Of those that run, all of it: where they were interrupted may be on another stack, which is kept as well.
  void running_stack(const CpuObjects& objects) {
    const Kva stack = pointer(objects.curr, plan_.task.stack);
    if (stack.value() != 0) keep(stack, plan_.task.stack_bytes);
    if (objects.cpu >= hints_.stack_pointers.size()) return;
    const Kva sp = hints_.stack_pointers[objects.cpu];
    if (sp.value() == 0 || (sp >= stack && sp - stack < plan_.task.stack_bytes)) return;
    const std::uint64_t rest = plan_.task.stack_bytes - sp.value() % plan_.task.stack_bytes;
    if (!captured_.capture(memory_, sp, rest, budget_)) keep(sp, 4096 - sp.value() % 4096);
  }

  // task -> css_set -> cgroup -> kernfs_node -> its parents, each once.
  void cgroup(Kva task) {
    const CgroupPlan& plan = plan_.cgroup;
    if (!plan_.task.cgroups || !plan.dfl_cgrp || !plan.kn || !plan.name || !plan.parent) return;
    const Kva css_set = pointer(task, plan_.task.cgroups);
    if (css_set.value() == 0 || !seen_css_sets_.insert(css_set)) return;
    keep(css_set + plan.dfl_cgrp->offset, 8);
    const Kva cgroup = pointer(css_set, plan.dfl_cgrp);
    if (cgroup.value() == 0) return;
    keep(cgroup + plan.kn->offset, 8);
    Kva node = pointer(cgroup, plan.kn);
    for (std::uint64_t depth = 0; node.value() != 0 && depth < kMaxCgroupDepth && seen_nodes_.insert(node);
         ++depth) {
      keep(node + plan.name->offset, 8);
      keep(node + plan.parent->offset, 8);
      const Kva name = pointer(node, plan.name);
      const auto text = memory_.read_c_string(name, 256, budget_);
      if (text) keep(name, text->text.size() + (text->terminated ? 1 : 0));
      node = pointer(node, plan.parent);
    }
  }

  const ScxPlan& plan_;
  const GuestKernel& kernel_;
  KernelReader& memory_;
  CapturedMemory& captured_;
  const CaptureHints& hints_;
  const CaptureLimits& limits_;
  ReadBudget budget_;
  ScxObjects objects_;
  ListContents list_;  // of the short lists, one after the other
  KvaSet seen_scheds_, seen_css_sets_, seen_nodes_;
};

}  // namespace

ScxObjects capture_scx(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                       CapturedMemory& captured, const CaptureHints& hints, const CaptureLimits& limits) {
  return ScxWalk(plan, kernel, memory, captured, hints, limits).run();
}

Kva capture_exit_info(const ScxPlan& plan, const GuestKernel& kernel, KernelReader& memory,
                      CapturedMemory& captured, Kva sched, ReadBudget& budget) {
  std::optional<Kva> at;
  if (sched.value() != 0 && plan.sched.exit_info) at = sched + plan.sched.exit_info->offset;
  if (sched.value() == 0) at = kernel.symbol("scx_exit_info");
  if (!at) return Kva();
  const auto info = memory.read<Kva>(*at, budget);
  if (!info || info->value() == 0) return Kva();
  plan.exit_info.capture(captured, memory, *info, budget);
  const auto keep_text = [&](const std::optional<Place>& place, std::uint64_t size) {
    const auto target = place ? memory.read<Kva>(*info + place->offset, budget) : FaultOr<Kva>(Kva());
    if (target && target->value() != 0 && size > 0) [[maybe_unused]]
      const auto kept = captured.capture(memory, *target, size, budget);
  };
  if (plan.exit_bt_len) {
    const auto length = memory.read<std::uint32_t>(*info + plan.exit_bt_len->offset, budget);
    if (length) keep_text(plan.exit_bt, 8 * std::min<std::uint64_t>(*length, kMaxBacktrace));
  }
  if (plan.exit_dump) {
    const auto text = memory.read<Kva>(*info + plan.exit_dump->offset, budget);
    if (text && text->value() != 0) {
      if (const auto dump = memory.read_c_string(*text, StructLayout::kMaxDumpText, budget))
        keep_text(plan.exit_dump, dump->text.size() + (dump->terminated ? 1 : 0));
    }
  }
  return *info;
}

}  // namespace ktstr
