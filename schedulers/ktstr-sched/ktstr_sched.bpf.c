// A scheduler that does wrong on request. Everything that looks at a failing scheduler from outside needs one
// that fails in a known way, on any kernel, at a known moment; this is it.
//
// Healthy, it is simple. A task that wakes up while a CPU is idle goes straight there. Every other task waits
// on a user DSQ: kernel threads and the few processes that must always run on the shared FIFO, the rest on
// the queue of its group (a hash of the process id), two of which are FIFO and two ordered by virtual run
// time. A CPU that needs work asks the five queues in turn, each time beginning after the one it took from
// last.
//
// The faults are plain ints in .data, named fault_*: the loader sets them before the start, its time limits
// (*_after_ms) set them later, and whoever can write to the map or to guest memory may do so at any time.
//
// Held tasks come in both kinds that a dump must tell apart: on a DSQ that nobody serves, and owned by BPF,
// which is on no queue of the kernel at all; the map `held` lists those.
#include "schedulers/ktstr-sched/kernel_types.h"
// (order matters: libbpf's headers use those types)
#include "schedulers/ktstr-sched/kfuncs.h"
#include "schedulers/ktstr-sched/limits.h"

char LICENSE[] SEC("license") = "GPL";

#define kSharedDsq 0x100ULL
#define kGroupDsq 0x200ULL  // + group
#define kLimboDsq 0x300ULL  // + number, below hold_dsqs
#define kMissingDsq 0xbadULL
#define kSecond 1000000000ULL
#define kMillisecond 1000000ULL

// Set by the loader, then read-only.
const volatile s32 loader_tgid = 0;
const volatile u64 seed = 1;
const volatile u64 slice_ns = 5 * kMillisecond;
const volatile u64 race_window_ns = 2000;
const volatile s32 hold_on_bpf = 0;
const volatile u32 hold_dsqs = 1;
const volatile s32 fail_verify = 0;
const volatile u32 dump_size = 32768;

// May be written while the scheduler runs. Times count from the start, in ms; 0 is never.
volatile s32 fault_stall SEC(".data") = 0;
volatile s32 fault_hold_every SEC(".data") = 0;
volatile s32 fault_error SEC(".data") = 0;
volatile s32 fault_bad_dispatch SEC(".data") = 0;
volatile s32 fault_slow_us SEC(".data") = 0;
volatile s32 fault_unfair SEC(".data") = 0;
volatile s32 fault_scatter SEC(".data") = 0;
volatile s32 fault_race SEC(".data") = 0;
volatile u32 stall_after_ms SEC(".data") = 0;
volatile u32 error_after_ms SEC(".data") = 0;
volatile u32 bad_dispatch_after_ms SEC(".data") = 0;
volatile s32 fault_spin SEC(".data") = 0;
volatile u32 spin_after_ms SEC(".data") = 0;
volatile u32 spin_for_ms SEC(".data") = 1000;

u64 start_ns;
u64 vtime_now;
u64 nr_user_enqueues;
u64 nr_held;
u64 nr_races;
// Which CPU spins, or did last; -1: none did.
volatile s32 spin_cpu SEC(".data") = -1;
struct queue {
  u64 enqueues;
  u64 moves;
  u64 last_ns;
  u32 last_cpu;
} queues[8];  // kServedDsqs are used

volatile s32 exit_kind;
volatile s32 exit_cpu;
s64 exit_code;
char exit_reason[kReasonSize];
char exit_message[kMessageSize];
char exit_dump[kDumpSize] SEC(".data.exit_dump");

struct cpu_stats {
  u64 selects;
  u64 direct;
  u64 enqueues;
  u64 dispatches;
  u64 moved;
  u64 held;
  u64 random;
  u32 cursor;
};

struct task_info {
  char comm[16];
  s32 tgid;
  u32 group;
};

struct held_info {
  u64 since_ns;
  u64 number;
};

struct task_state {
  u64 enqueued_ns;
  u64 started_ns;
  u64 run_ns;
  u64 vtime;
  u64 enqueues;
  u32 held;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, kMaxCpus);
  __type(key, u32);
  __type(value, struct cpu_stats);
} cpu_stats SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, kMaxTasks);
  __type(key, s32);
  __type(value, struct task_info);
} tasks SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, kMaxTasks);
  __type(key, s32);
  __type(value, struct held_info);
} held SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, s32);
  __type(value, struct task_state);
} task_states SEC(".maps");

// Without these the watchdog's worker, PID 1 or our own loader would be among the victims.
static __always_inline bool is_always_served(const struct task_struct* p) {
  return (p->flags & PF_KTHREAD) || p->tgid == 1 || p->tgid == loader_tgid;
}

static __always_inline u32 hash32(u32 value) {
  return value * 2654435761u;
}
static __always_inline u32 group_of(const struct task_struct* p) {
  return (hash32((u32)p->tgid) >> 30) % kGroups;
}
// Half of the tasks, another half for another seed.
static __always_inline bool is_favoured(const struct task_struct* p) {
  return hash32((u32)p->pid ^ (u32)seed) >> 31;
}

static __always_inline struct cpu_stats* stats_of(u32 cpu) {
  return bpf_map_lookup_elem(&cpu_stats, &cpu);
}

static __always_inline struct task_state* state_of(struct task_struct* p) {
  return bpf_task_storage_get(&task_states, p, NULL, 0);
}

// The mask is in assembler because a compiler that knows the range better than the verifier would drop it.
static __always_inline struct queue* queue_at(u32 queue) {
  u64 index = queue;
  asm volatile("%[index] &= 7" : [index] "+r"(index));
  return &queues[index];
}

static __always_inline u64 next_random(struct cpu_stats* stats, u32 cpu) {
  u64 x = stats->random;
  if (x == 0) x = (seed + cpu + 1) * 0x9e3779b97f4a7c15ULL;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  stats->random = x;
  return x;
}

// Sets the faults whose time has come, and raises the one that is an error by itself.
static __always_inline void check_clock(u64 now) {
  u64 passed = (now - start_ns) / kMillisecond;
  if (stall_after_ms && !fault_stall && passed >= stall_after_ms) fault_stall = 1;
  if (bad_dispatch_after_ms && !fault_bad_dispatch && passed >= bad_dispatch_after_ms) fault_bad_dispatch = 1;
  if (error_after_ms && !fault_error && passed >= error_after_ms) fault_error = 1;
  if (fault_error) KTSTR_ERROR("ktstr_sched: error on request after %llu ms", passed);
}

// Two CPUs that enqueue to one queue within the window: an error only for a certain interleaving.
static __always_inline void check_race(u32 queue, u32 cpu, u64 now) {
  struct queue* record = queue_at(queue);
  u64 last = record->last_ns;
  u32 other = record->last_cpu;
  record->last_ns = now;
  record->last_cpu = cpu;
  if (!fault_race || last == 0 || other == cpu) return;
  u64 apart = now > last ? now - last : last - now;
  if (apart >= race_window_ns) return;
  __sync_fetch_and_add(&nr_races, 1);
  KTSTR_ERROR("ktstr_sched: race: CPUs %llu and %llu enqueued to queue %llu within %llu ns", (u64)other,
              (u64)cpu, (u64)queue, apart);
}

struct spin_context {
  u64 until;
};

static long spin_step(u64 index, struct spin_context* context) {
  return bpf_ktime_get_ns() >= context->until;
}

static __always_inline void be_slow(u64 now) {
  s32 us = fault_slow_us;
  if (us <= 0) return;
  if (us > 10000) us = 10000;
  struct spin_context context = {.until = now + (u64)us * 1000};
  bpf_loop(1 << 20, spin_step, &context, 0);
}

static long spin_round(u64 index, struct spin_context* context) {
  bpf_loop(1 << 20, spin_step, context, 0);
  return bpf_ktime_get_ns() >= context->until;
}

// One CPU does nothing else for a while. The kernel calls dispatch() with this CPU's run queue locked and its
// interrupts off, so neither a tick nor another CPU's request gets through to it meanwhile.
static __always_inline void spin_when_due(u32 cpu, u64 now) {
  u64 passed = (now - start_ns) / kMillisecond;
  if (spin_after_ms && passed >= spin_after_ms) {
    spin_after_ms = 0;
    fault_spin = 1;
  }
  // Whoever takes it back to 0 is the one.
  if (!fault_spin || !__sync_val_compare_and_swap(&fault_spin, 1, 0)) return;
  spin_cpu = (s32)cpu;
  struct spin_context context = {.until = now + (u64)spin_for_ms * kMillisecond};
  bpf_loop(1 << 10, spin_round, &context, 0);
}

#ifndef KTSTR_BUILTIN_DSQS
// A DSQ takes tasks by arrival or by virtual time, never both at once (dispatch_enqueue() calls that an error
// of the scheduler), so whoever puts a task on a group's queue, to be served or to be held, does it here.
static __always_inline void insert_into_group(struct task_struct* p, struct task_state* state, u32 group,
                                              u64 slice, u64 enq_flags) {
  if (group & 1) {
    dsq_insert(p, kGroupDsq + group, slice, enq_flags);
    return;
  }
  u64 vtime = vtime_now;
  if (state) {
    // Who slept for long may not catch up on all of it.
    if ((s64)(state->vtime - (vtime_now - slice_ns)) < 0) state->vtime = vtime_now - slice_ns;
    vtime = state->vtime;
  }
  dsq_insert_vtime(p, kGroupDsq + group, slice, vtime, enq_flags);
}
#endif

static __always_inline void count_held(struct cpu_stats* stats, struct task_state* state) {
  __sync_fetch_and_add(&nr_held, 1);
  stats->held++;
  if (state) state->held = 1;
}

// The task is on no queue: BPF's until the kernel takes it back.
static __always_inline void hold_on_no_queue(struct task_struct* p, u64 now) {
  struct held_info info = {.since_ns = now, .number = nr_held};
  s32 pid = p->pid;
  bpf_map_update_elem(&held, &pid, &info, BPF_ANY);
}

// A CPU that the task may run on, at random. Tasks bound to one stay.
static __always_inline bool scatter(struct task_struct* p, struct cpu_stats* stats, u32 cpu, u64 enq_flags) {
  if (p->nr_cpus_allowed == 1) return false;
  if (bpf_core_field_exists(p->migration_disabled) && p->migration_disabled) return false;
  for (int i = 0; i < 16; i++) {
    u32 target = (u32)(next_random(stats, cpu) >> 33) % kMaxCpus;
    // Few machines have that many CPUs, so most draws are folded into a small range.
    if (i < 8)
      target &= 7;
    else if (i < 12)
      target &= 63;
    if (!bpf_cpumask_test_cpu(target, p->cpus_ptr)) continue;
    dsq_insert(p, SCX_DSQ_LOCAL_ON | target, slice_ns, enq_flags);
    scx_bpf_kick_cpu((s32)target, SCX_KICK_IDLE);
    return true;
  }
  return false;
}

SEC("struct_ops/select_cpu")
s32 BPF_PROG(ktstr_select_cpu, struct task_struct* p, s32 prev_cpu, u64 wake_flags) {
  bool is_idle = false;
  s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
  struct cpu_stats* stats = stats_of(bpf_get_smp_processor_id());
  if (stats) stats->selects++;
  if (!is_idle) return cpu;
  // Every fault is in enqueue(); with one switched on, user space goes there.
  bool faulty =
      fault_stall || fault_hold_every || fault_bad_dispatch || fault_scatter || fault_unfair || fault_race;
  if (faulty && !is_always_served(p)) return cpu;
  if (stats) stats->direct++;
  dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
  return cpu;
}

SEC("struct_ops/enqueue")
void BPF_PROG(ktstr_enqueue, struct task_struct* p, u64 enq_flags) {
  u64 now = bpf_ktime_get_ns();
  u32 cpu = bpf_get_smp_processor_id();
  struct cpu_stats* stats = stats_of(cpu);
  if (!stats) return;
  struct task_state* state = state_of(p);
  bool served = is_always_served(p);
  u32 group = group_of(p);
  u64 slice = slice_ns;

  stats->enqueues++;
  if (state) {
    state->enqueued_ns = now;
    state->enqueues++;
    state->held = 0;
  }
  check_clock(now);

  if (!served) {
    u64 number = __sync_fetch_and_add(&nr_user_enqueues, 1) + 1;
    s32 every = fault_hold_every;
    bool stall = fault_stall;
    if (stall || (every > 0 && number % (u64)every == 0)) {
      count_held(stats, state);
#ifndef KTSTR_BUILTIN_DSQS
      if (!hold_on_bpf && stall) {
        insert_into_group(p, state, group, slice, enq_flags);
        return;
      }
      if (!hold_on_bpf) {
        dsq_insert(p, kLimboDsq + number / (u64)every % hold_dsqs, slice, enq_flags);
        return;
      }
#endif
      hold_on_no_queue(p, now);
      return;
    }
    if (fault_bad_dispatch) {
      dsq_insert(p, kMissingDsq, slice, enq_flags);
      return;
    }
    if (fault_scatter && scatter(p, stats, cpu, enq_flags)) return;
  }
  // The only task this CPU has: without the flag's request the kernel would just let it run on, and a stall
  // would spare it. The CPU has already chosen to idle (kernels before 7.2 do not look again), so it is told.
  if (enq_flags & SCX_ENQ_LAST) {
    dsq_insert(p, SCX_DSQ_LOCAL, slice, enq_flags);
    scx_bpf_kick_cpu((s32)cpu, 0);
    return;
  }

  u32 queue = served ? 0 : 1 + group;
  if (fault_unfair && !served) {
    // The favoured go where dispatch() looks first, with long slices.
    queue = is_favoured(p) ? 0 : 2;
    slice = is_favoured(p) ? 4 * slice_ns : slice_ns / 8;
  }
  check_race(queue, cpu, now);
  __sync_fetch_and_add(&queue_at(queue)->enqueues, 1);
#ifdef KTSTR_BUILTIN_DSQS
  dsq_insert(p, SCX_DSQ_GLOBAL, slice, enq_flags);
#else
  if (queue == 0) {
    dsq_insert(p, kSharedDsq, slice, enq_flags);
    return;
  }
  insert_into_group(p, state, queue - 1, slice, enq_flags);
#endif
}

// The kernel takes a task back that BPF owns: its class, CPUs or group change, or it is killed.
SEC("struct_ops/dequeue")
void BPF_PROG(ktstr_dequeue, struct task_struct* p, u64 deq_flags) {
  s32 pid = p->pid;
  bpf_map_delete_elem(&held, &pid);
}

SEC("struct_ops/dispatch")
void BPF_PROG(ktstr_dispatch, s32 cpu, struct task_struct* prev) {
  u64 now = bpf_ktime_get_ns();
  struct cpu_stats* stats = stats_of((u32)cpu);
  if (!stats) return;
  stats->dispatches++;
  check_clock(now);
  spin_when_due((u32)cpu, now);
  be_slow(now);
#ifndef KTSTR_BUILTIN_DSQS
  if (fault_stall) {
    dsq_move_to_local(kSharedDsq);
    return;
  }
  u32 first = stats->cursor;
  // Even when unfair, somebody else gets a turn now and then: slow, but no stall.
  if (fault_unfair && stats->dispatches % 16 != 0) first = 0;
  for (u32 i = 0; i < kServedDsqs; i++) {
    u32 queue = (first + i) % kServedDsqs;
    if (!dsq_move_to_local(queue == 0 ? kSharedDsq : kGroupDsq + queue - 1)) continue;
    stats->cursor = (queue + 1) % kServedDsqs;
    stats->moved++;
    __sync_fetch_and_add(&queue_at(queue)->moves, 1);
    return;
  }
#endif
}

SEC("struct_ops/running")
void BPF_PROG(ktstr_running, struct task_struct* p) {
  struct task_state* state = state_of(p);
  if (!state) return;
  state->started_ns = bpf_ktime_get_ns();
  if ((s64)(vtime_now - state->vtime) < 0) vtime_now = state->vtime;
}

SEC("struct_ops/stopping")
void BPF_PROG(ktstr_stopping, struct task_struct* p, bool runnable) {
  struct task_state* state = state_of(p);
  if (!state || !state->started_ns) return;
  u64 ran = bpf_ktime_get_ns() - state->started_ns;
  u32 weight = p->scx.weight;
  state->started_ns = 0;
  state->run_ns += ran;
  state->vtime += ran * 100 / (weight ? weight : 100);
}

SEC("struct_ops.s/init_task")
s32 BPF_PROG(ktstr_init_task, struct task_struct* p, struct scx_init_task_args* args) {
  struct task_state* state = bpf_task_storage_get(&task_states, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!state) return -12;  // ENOMEM
  state->vtime = vtime_now;
  struct task_info info = {.tgid = p->tgid, .group = group_of(p)};
  s32 pid = p->pid;
  bpf_probe_read_kernel_str(info.comm, sizeof(info.comm), p->comm);
  // More tasks than the map holds: they are scheduled all the same.
  bpf_map_update_elem(&tasks, &pid, &info, BPF_ANY);
  return 0;
}

SEC("struct_ops/exit_task")
void BPF_PROG(ktstr_exit_task, struct task_struct* p, struct scx_exit_task_args* args) {
  s32 pid = p->pid;
  bpf_map_delete_elem(&tasks, &pid);
  bpf_map_delete_elem(&held, &pid);
}

SEC("struct_ops/dump")
void BPF_PROG(ktstr_dump, struct scx_dump_ctx* where) {
  KTSTR_DUMP("ktstr_sched: held=%llu user_enqueues=%llu stall=%llu hold_every=%llu vtime=%llu\n", nr_held,
             nr_user_enqueues, (u64)fault_stall, (u64)fault_hold_every, vtime_now);
#ifndef KTSTR_BUILTIN_DSQS
  KTSTR_DUMP("ktstr_sched: shared=%lld groups=%lld,%lld,%lld,%lld\n", (u64)scx_bpf_dsq_nr_queued(kSharedDsq),
             (u64)scx_bpf_dsq_nr_queued(kGroupDsq), (u64)scx_bpf_dsq_nr_queued(kGroupDsq + 1),
             (u64)scx_bpf_dsq_nr_queued(kGroupDsq + 2), (u64)scx_bpf_dsq_nr_queued(kGroupDsq + 3));
  KTSTR_DUMP("ktstr_sched: limbo=%lld\n", (u64)scx_bpf_dsq_nr_queued(kLimboDsq));
#endif
}

SEC("struct_ops/dump_cpu")
void BPF_PROG(ktstr_dump_cpu, struct scx_dump_ctx* where, s32 cpu, bool idle) {
  struct cpu_stats* stats = stats_of((u32)cpu);
  if (idle || !stats) return;
  KTSTR_DUMP("ktstr_sched: enqueues=%llu dispatches=%llu moved=%llu held=%llu cursor=%llu\n", stats->enqueues,
             stats->dispatches, stats->moved, stats->held, (u64)stats->cursor);
}

SEC("struct_ops/dump_task")
void BPF_PROG(ktstr_dump_task, struct scx_dump_ctx* where, struct task_struct* p) {
  struct task_state* state = state_of(p);
  if (!state) return;
  KTSTR_DUMP("ktstr_sched: group=%llu vtime=%llu run_ns=%llu enqueues=%llu held=%llu\n", (u64)group_of(p),
             state->vtime, state->run_ns, state->enqueues, (u64)state->held);
}

SEC("struct_ops.s/init")
s32 BPF_PROG(ktstr_init) {
  if (fail_verify) {
    // The verifier must refuse this: the result may be NULL. The loader's constant makes it dead code
    // otherwise.
    s32 pid = 1;
    struct held_info* info = bpf_map_lookup_elem(&held, &pid);
    return (s32)info->number;
  }
  start_ns = bpf_ktime_get_ns();
#ifndef KTSTR_BUILTIN_DSQS
  s32 error = scx_bpf_create_dsq(kSharedDsq, -1);
  if (error) return error;
  for (u32 group = 0; group < kGroups; group++) {
    error = scx_bpf_create_dsq(kGroupDsq + group, -1);
    if (error) return error;
  }
  for (u32 i = 0; i < hold_dsqs && i < kMostHoldDsqs; i++) {
    error = scx_bpf_create_dsq(kLimboDsq + i, -1);
    if (error) return error;
  }
#endif
  return 0;
}

SEC("struct_ops/exit")
void BPF_PROG(ktstr_exit, struct scx_exit_info* info) {
  u32 size = dump_size;
  bpf_probe_read_kernel_str(exit_reason, sizeof(exit_reason), info->reason);
  bpf_probe_read_kernel_str(exit_message, sizeof(exit_message), info->msg);
  if (size > 0 && size <= sizeof(exit_dump)) bpf_probe_read_kernel_str(exit_dump, size, info->dump);
  exit_code = info->exit_code;
  exit_cpu = bpf_core_field_exists(info->exit_cpu) ? info->exit_cpu : -1;
  // Last, and a full barrier: the loader waits for it.
  __sync_val_compare_and_swap(&exit_kind, 0, info->kind);
}

SEC(".struct_ops.link")
struct sched_ext_ops ktstr_sched = {
    .select_cpu = (void*)ktstr_select_cpu,
    .enqueue = (void*)ktstr_enqueue,
    .dequeue = (void*)ktstr_dequeue,
    .dispatch = (void*)ktstr_dispatch,
    .running = (void*)ktstr_running,
    .stopping = (void*)ktstr_stopping,
    .init_task = (void*)ktstr_init_task,
    .exit_task = (void*)ktstr_exit_task,
    .dump = (void*)ktstr_dump,
    .dump_cpu = (void*)ktstr_dump_cpu,
    .dump_task = (void*)ktstr_dump_task,
    .init = (void*)ktstr_init,
    .exit = (void*)ktstr_exit,
    .flags = 1ULL << 1,  // SCX_OPS_ENQ_LAST
    .name = "ktstr_sched",
};
