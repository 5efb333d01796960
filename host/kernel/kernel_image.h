// KernelImage: the kernel under test.
//
// Opening one finds out everything the rest of the program wants to know about it, from whatever the user
// named: a bzImage, a vmlinux, a build tree, an unpacked package. The heart is the payload, the uncompressed
// kernel ELF: machines enter it directly (that saves the decompressor, most of the boot time under
// emulation), and types (BTF), build id, configuration and symbols are read from it.
//
//     auto kernel = KernelImage::open(path);           // errors are kUsage: the file is not what we need
//     if (!kernel->sched_ext().present) ...            // kKernelLacks is the caller's decision
//
// A warm open of a packaged kernel takes about 7 ms of processor time, most of it for its BTF; 20 ms more
// after a boot, for hashing the bzImage and verifying the cached ELF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/mapping.h"
#include "common/unique_fd.h"
#include "host/kernel/btf.h"
#include "host/kernel/elf_view.h"
#include "host/kernel/image_cache.h"
#include "host/kernel/kernel_config.h"
#include "host/kernel/kernel_files.h"
#include "host/kernel/setup_header.h"

namespace ktstr {

enum class ImageKind {
  kBzImage,  // compressed, with a boot loader's header
  kVmlinux,  // the ELF itself
};

// Whether the kernel can run sched_ext schedulers, and what tells so.
struct SchedExtSupport {
  bool present = false;
  // One sentence for a report, which names the evidence: "struct sched_ext_entity is in the kernel's BTF", or
  // "CONFIG_SCHED_CLASS_EXT is not set: ...".
  std::string reason;
};

// Move-only. Everything handed out by reference, view or span lives as long as the KernelImage; moving it
// keeps payload spans valid.
class KernelImage {
 public:
  // Largest bzImage and largest vmlinux (with debug information) that are accepted, bytes.
  static constexpr std::uint64_t kMaxBzImageSize = std::uint64_t{256} << 20;
  static constexpr std::uint64_t kMaxVmlinuxSize = std::uint64_t{4} << 30;
  // Longest release string, as UTS_RELEASE has it (__NEW_UTS_LEN).
  static constexpr std::size_t kMaxRelease = 64;

  // Opens the kernel `path`: a bzImage, a vmlinux, a kernel build tree, or a folder as kernel_files.h
  // describes. Unpacked payloads are kept in `cache`. Error kUsage when there is no such file, it is no
  // kernel, is for another architecture, or is truncated or damaged; kHost when the machine is out of
  // resources.
  static Expected<KernelImage> open(const std::string& path, const ImageCache& cache);
  // With the cache in its usual place.
  static Expected<KernelImage> open(const std::string& path);

  // Of the image itself: `path`, or the file found in the folder.
  const std::string& image_path() const { return image_path_; }
  ImageKind kind() const { return kind_; }
  // "7.2.13+deb14-cloud-amd64"; at most kMaxRelease printable characters without '/' and blanks, never empty.
  const std::string& release() const { return release_; }
  // "#1 SMP PREEMPT_DYNAMIC Debian 7.2.13-1 (2026-10-28)"; may be empty.
  const std::string& uts_version() const { return uts_version_; }
  // The bzImage's setup header; nullopt for a vmlinux.
  const std::optional<SetupHeader>& setup_header() const { return setup_; }
  // Boot protocol, 0x20f for 2.15; 0 for a vmlinux.
  std::uint16_t protocol_version() const { return setup_ ? setup_->protocol : std::uint16_t{0}; }
  // Bytes of memory that the kernel occupies when it starts (setup header, boot.rst "init_size"); for a
  // vmlinux, and for a header without it, the extent of its segments.
  std::uint64_t init_size() const { return init_size_; }
  // GNU build id, lower-case hexadecimal (equal to the guest's /sys/kernel/notes); empty when there is none.
  const std::string& build_id() const { return build_id_; }

  // The uncompressed kernel.
  std::span<const std::byte> payload() const { return elf_.image(); }
  const ElfView& elf() const { return elf_; }
  // A new read-only descriptor of a file that begins with payload(); an entry of the cache has a trailer
  // behind it, which ELF loaders do not notice. Never written to by us. Error kHost when there are no more
  // descriptors.
  Expected<UniqueFd> payload_fd() const;
  // A new read-only descriptor of the bzImage, at offset 0. Error kUsage for a vmlinux.
  Expected<UniqueFd> image_fd() const;
  // Whether the payload was found in the cache, and why the cache is not used (empty when it is).
  bool payload_from_cache() const { return from_cache_; }
  // The payload's entry in the cache; empty for a vmlinux, and where nothing is kept.
  const std::string& cache_entry() const { return cache_entry_; }
  // Gives back the pages of the payload that were looked at: they are read again when they are needed.
  void release_pages() const;
  const std::string& cache_note() const { return cache_note_; }

  // The configuration; config().source() says where it comes from.
  const KernelConfig& config() const { return config_; }
  // Why a better source of the configuration was passed over ("'/x/config-1': line 3 is no kernel
  // configuration"); often empty.
  const std::string& config_note() const { return config_note_; }
  // Types of the kernel; nullptr when it has no (usable) BTF.
  const Btf* btf() const { return btf_ ? &*btf_ : nullptr; }

  // Root of the modules, see files().layout; nullopt when there are none beside the image.
  std::optional<std::string> modules_dir() const;
  // All that lies beside the image.
  const KernelFiles& files() const { return files_; }

  // Whether the ELF can be entered by the PVH protocol (note "Xen" 18, XEN_ELFNOTE_PHYS32_ENTRY): QEMU's
  // -kernel needs it for an uncompressed kernel.
  bool has_pvh_entry() const { return pvh_entry_.has_value(); }
  // Physical address of the 32-bit PVH entry.
  std::optional<std::uint64_t> pvh_entry() const { return pvh_entry_; }
  const SchedExtSupport& sched_ext() const { return sched_ext_; }

 private:
  KernelImage() = default;

  Expected<> load_bzimage(const ImageCache& cache, std::span<const std::byte> head, std::uint64_t file_size);
  Expected<> load_vmlinux(std::uint64_t file_size);
  Expected<> identify();
  void find_config();
  std::optional<KernelConfig> embedded_config();
  void decide_sched_ext();
  // "'/boot/vmlinuz-x'" for messages.
  std::string what() const;

  std::string image_path_;
  ImageKind kind_ = ImageKind::kBzImage;
  UniqueFd file_;            // what the user named
  UniqueFd payload_;         // the cached ELF; empty for a vmlinux
  mutable Mapping mapping_;  // behind payload(); never written to
  std::optional<SetupHeader> setup_;
  ElfView elf_;
  std::string release_;
  std::string uts_version_;
  std::uint64_t init_size_ = 0;
  std::string build_id_;
  std::optional<std::uint64_t> pvh_entry_;
  std::optional<Btf> btf_;
  std::string btf_note_;
  KernelFiles files_;
  KernelConfig config_;
  std::string config_note_;
  SchedExtSupport sched_ext_;
  bool from_cache_ = false;
  std::string cache_entry_;
  std::string cache_note_;
};

}  // namespace ktstr
