// The kernel's types that the BPF code touches, by name and member only: preserve_access_index makes libbpf
// look every offset up in the running kernel's BTF, so neither order nor completeness matters here, and no
// header generated from one kernel is needed. Members that some kernel lacks are asked for first
// (bpf_core_field_exists).
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef _Bool bool;
// Names that libbpf's headers use.
typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef u64 __u64;
typedef s8 __s8;
typedef s16 __s16;
typedef s32 __s32;
typedef s64 __s64;
typedef u16 __be16;
typedef u32 __be32;
typedef u32 __wsum;

#define NULL ((void*)0)
#define true 1
#define false 0

// include/uapi/linux/bpf.h; numbers are ABI.
enum {
  BPF_MAP_TYPE_HASH = 1,
  BPF_MAP_TYPE_ARRAY = 2,
  BPF_MAP_TYPE_TASK_STORAGE = 29,
  BPF_F_NO_PREALLOC = 1,
  BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
  BPF_ANY = 0,
};

// include/linux/sched.h
#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

// DSQ ids and flags of sched_ext. Written out because not every kernel's BTF has 64-bit enumerators; all
// series from 6.12 to 7.3 agree on them.
#define SCX_DSQ_GLOBAL (1ULL << 63 | 1)
#define SCX_DSQ_LOCAL (1ULL << 63 | 2)
#define SCX_DSQ_LOCAL_ON (3ULL << 62)
#define SCX_ENQ_LAST (1ULL << 41)
#define SCX_KICK_IDLE 1ULL

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

// Not just declared: libbpf finds a function whose argument is a forward declaration incompatible.
struct cpumask {
  unsigned long bits[1];
};
typedef struct cpumask cpumask_t;

struct sched_ext_entity {
  u32 weight;
};

struct task_struct {
  s32 pid;
  s32 tgid;
  u32 flags;
  s32 nr_cpus_allowed;
  u16 migration_disabled;
  const cpumask_t* cpus_ptr;
  char comm[16];
  struct sched_ext_entity scx;
};

// A member is only found when it is of the same sort: an enum is no int.
enum scx_exit_kind { SCX_EXIT_NONE };

struct scx_exit_info {
  enum scx_exit_kind kind;
  s32 exit_cpu;
  s64 exit_code;
  const char* reason;
  char* msg;
  char* dump;
};

#pragma clang attribute pop

struct scx_init_task_args;
struct scx_exit_task_args;
struct scx_dump_ctx;

// libbpf matches the members with the kernel's by name, and refuses one that the kernel lacks only when it is
// set. So this holds what we set and nothing else.
struct sched_ext_ops {
  s32 (*select_cpu)(struct task_struct* p, s32 prev_cpu, u64 wake_flags);
  void (*enqueue)(struct task_struct* p, u64 enq_flags);
  void (*dequeue)(struct task_struct* p, u64 deq_flags);
  void (*dispatch)(s32 cpu, struct task_struct* prev);
  void (*running)(struct task_struct* p);
  void (*stopping)(struct task_struct* p, bool runnable);
  s32 (*init_task)(struct task_struct* p, struct scx_init_task_args* args);
  void (*exit_task)(struct task_struct* p, struct scx_exit_task_args* args);
  void (*dump)(struct scx_dump_ctx* ctx);
  void (*dump_cpu)(struct scx_dump_ctx* ctx, s32 cpu, bool idle);
  void (*dump_task)(struct scx_dump_ctx* ctx, struct task_struct* p);
  s32 (*init)(void);
  void (*exit)(struct scx_exit_info* info);
  u64 flags;
  u32 timeout_ms;
  u32 exit_dump_len;
  char name[128];
};
