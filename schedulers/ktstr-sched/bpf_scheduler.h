// The BPF side of ktstr-sched: opened, set up, loaded, attached, watched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "common/error.h"

struct bpf_object;
struct bpf_link;
struct bpf_map;

namespace ktstr::sched {

// Why the kernel ended it; everything in the kernel's own words.
struct ExitRecord {
  int kind = 0;  // enum scx_exit_kind
  int cpu = -1;  // where it was raised; -1 when the kernel does not say
  std::int64_t code = 0;
  std::string reason;
  std::string message;
  std::string dump;

  // SCX_EXIT_ERROR and above; below are the orderly ends.
  bool is_error() const { return kind >= 1024; }
};

// True when the kernel's functions with implicit arguments show them in BTF (Linux 7.1 as packaged): programs
// can not call those, and user DSQs can not be made.
Expected<bool> lacks_user_dsqs();

class BpfScheduler {
 public:
  // `object` is the ELF file's contents. Error kStartFailed.
  static Expected<BpfScheduler> open(std::span<const std::byte> object);
  BpfScheduler(BpfScheduler&&) noexcept;
  BpfScheduler& operator=(BpfScheduler&&) = delete;
  ~BpfScheduler();

  // Sets a global variable of 4 or 8 bytes; before load() only. Error kStartFailed when there is none of the
  // name.
  Expected<> set(const char* variable, std::uint64_t value);
  // Members of struct sched_ext_ops; before load() only.
  Expected<> set_ops(bool partial, std::uint32_t timeout_ms, std::uint32_t dump_size);

  // Loads and attaches; libbpf prints the verifier's words to standard error. Error kStartFailed.
  Expected<> start();
  // Detaches; the kernel has switched back when it returns.
  void stop();

  // Whether the kernel has ended it; valid after start().
  bool has_exited() const;
  ExitRecord exit_record() const;

 private:
  struct Mapping {
    void* address = nullptr;
    std::size_t size = 0;
  };
  struct Variable {
    std::string section;
    std::size_t offset = 0;
    std::size_t size = 0;
  };

  explicit BpfScheduler(bpf_object* object) : object_(object) {}
  Expected<> find_variables();
  Expected<> map_sections();
  template <typename T>
  T read(const char* variable) const;
  std::string read_text(const char* variable) const;

  bpf_object* object_ = nullptr;
  bpf_link* link_ = nullptr;
  std::map<std::string, Variable, std::less<>> variables_;
  std::map<std::string, Mapping, std::less<>> mappings_;
};

}  // namespace ktstr::sched
