// sched_ext's kernel functions under every name and shape they had from 6.12 on.
//
// libbpf drops a "___suffix" before it looks a function up, and leaves a weak one that is missing at zero:
// the verifier then sees a constant condition and skips the branch. What it does not forgive is a function
// that exists with other arguments. Linux 7.1 as packaged is such a case: the hidden argument `aux` shows in
// the BTF of its functions with implicit arguments, and no program can call them at all. Hence the second
// build of this code with KTSTR_BUILTIN_DSQS, which does without those functions (main.cc chooses).
#pragma once

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "schedulers/ktstr-sched/kernel_types.h"

s32 scx_bpf_select_cpu_dfl(struct task_struct* p, s32 prev_cpu, u64 wake_flags, bool* is_idle) __ksym;
void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
s32 scx_bpf_task_cpu(const struct task_struct* p) __ksym;
void scx_bpf_error_bstr(char* fmt, unsigned long long* data, u32 data__sz) __ksym;
void scx_bpf_dump_bstr(char* fmt, unsigned long long* data, u32 data__sz) __ksym __weak;
bool bpf_cpumask_test_cpu(u32 cpu, const struct cpumask* cpumask) __ksym;

// 6.13 renamed "dispatch" to "insert" and "consume" to "move to local"; 6.19 gave the first a result, 7.1 the
// second flags.
void scx_bpf_dispatch___old(struct task_struct* p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;
void scx_bpf_dsq_insert___v1(struct task_struct* p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;

#ifndef KTSTR_BUILTIN_DSQS
s32 scx_bpf_create_dsq(u64 dsq_id, s32 node) __ksym;
s32 scx_bpf_dsq_nr_queued(u64 dsq_id) __ksym;
bool scx_bpf_dsq_insert___v2___new(struct task_struct* p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;
bool scx_bpf_consume___old(u64 dsq_id) __ksym __weak;
bool scx_bpf_dsq_move_to_local___v1(u64 dsq_id) __ksym __weak;
bool scx_bpf_dsq_move_to_local___v2___new(u64 dsq_id, u64 enq_flags) __ksym __weak;

void scx_bpf_dispatch_vtime___old(struct task_struct* p, u64 dsq_id, u64 slice, u64 vtime,
                                  u64 enq_flags) __ksym __weak;
void scx_bpf_dsq_insert_vtime___v1(struct task_struct* p, u64 dsq_id, u64 slice, u64 vtime,
                                   u64 enq_flags) __ksym __weak;
struct scx_bpf_dsq_insert_vtime_args {
  u64 dsq_id;
  u64 slice;
  u64 vtime;
  u64 enq_flags;
} __attribute__((preserve_access_index));
bool __scx_bpf_dsq_insert_vtime(struct task_struct* p,
                                struct scx_bpf_dsq_insert_vtime_args* args) __ksym __weak;
#endif

static __always_inline void dsq_insert(struct task_struct* p, u64 dsq_id, u64 slice, u64 enq_flags) {
#ifndef KTSTR_BUILTIN_DSQS
  if (bpf_ksym_exists(scx_bpf_dsq_insert___v2___new)) {
    scx_bpf_dsq_insert___v2___new(p, dsq_id, slice, enq_flags);
    return;
  }
#endif
  if (bpf_ksym_exists(scx_bpf_dsq_insert___v1))
    scx_bpf_dsq_insert___v1(p, dsq_id, slice, enq_flags);
  else
    scx_bpf_dispatch___old(p, dsq_id, slice, enq_flags);
}

#ifndef KTSTR_BUILTIN_DSQS
static __always_inline void dsq_insert_vtime(struct task_struct* p, u64 dsq_id, u64 slice, u64 vtime,
                                             u64 enq_flags) {
  if (bpf_ksym_exists(scx_bpf_dsq_insert_vtime___v1)) {
    scx_bpf_dsq_insert_vtime___v1(p, dsq_id, slice, vtime, enq_flags);
  } else if (bpf_ksym_exists(__scx_bpf_dsq_insert_vtime)) {
    struct scx_bpf_dsq_insert_vtime_args args = {
        .dsq_id = dsq_id, .slice = slice, .vtime = vtime, .enq_flags = enq_flags};
    __scx_bpf_dsq_insert_vtime(p, &args);
  } else {
    scx_bpf_dispatch_vtime___old(p, dsq_id, slice, vtime, enq_flags);
  }
}

static __always_inline bool dsq_move_to_local(u64 dsq_id) {
  if (bpf_ksym_exists(scx_bpf_dsq_move_to_local___v2___new))
    return scx_bpf_dsq_move_to_local___v2___new(dsq_id, 0);
  if (bpf_ksym_exists(scx_bpf_dsq_move_to_local___v1)) return scx_bpf_dsq_move_to_local___v1(dsq_id);
  return scx_bpf_consume___old(dsq_id);
}
#endif

// printf-like, up to five values. Strings go as (u64)pointer with %s.
#define KTSTR_BSTR(function, format, ...)                        \
  ({                                                             \
    static char text[] = format;                                 \
    u64 values[] = {__VA_ARGS__};                                \
    function(text, (unsigned long long*)values, sizeof(values)); \
  })
#define KTSTR_ERROR(format, ...) KTSTR_BSTR(scx_bpf_error_bstr, format, __VA_ARGS__)
#define KTSTR_DUMP(format, ...) KTSTR_BSTR(scx_bpf_dump_bstr, format, __VA_ARGS__)
