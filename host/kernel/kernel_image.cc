#include "host/kernel/kernel_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/xxh3.h"
#include "host/kernel/bytes.h"
#include "host/kernel/config_derive.h"
#include "host/kernel/payload.h"

namespace ktstr {
namespace {

constexpr std::size_t kMaxPathInMessage = 200;
constexpr std::string_view kBanner = "Linux version ";
constexpr std::size_t kMaxBanner = 512;
// include/xen/interface/elfnote.h
constexpr std::uint32_t kXenPhys32Entry = 18;
constexpr std::size_t kMaxBuildId = 64;

// A private snapshot of the file: the hash and what is unpacked come from the same bytes even while a build
// rewrites it.
Expected<Mapping> read_snapshot(int fd, std::uint64_t size) {
  auto memory = Mapping::map(-1, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE);
  if (!memory) return memory;
  auto rest = memory->mutable_bytes();
  off_t offset = 0;
  while (!rest.empty()) {
    const ssize_t got = ::pread(fd, rest.data(), rest.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read the kernel image");
    if (got == 0) return fail(ErrorCode::kUsage, "the kernel image shrank while it was read");
    rest = rest.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
  return memory;
}

Expected<std::string> resolve(const std::string& path) {
  struct stat st = {};
  if (::stat(path.c_str(), &st) != 0) {
    return fail_errno(ErrorCode::kUsage, "cannot open the kernel " + quote(path, kMaxPathInMessage));
  }
  if (S_ISDIR(st.st_mode)) return find_image_in_folder(path);
  if (!S_ISREG(st.st_mode)) {
    return fail(ErrorCode::kUsage, fmt::format("{} is no kernel: it is neither a file nor a folder",
                                               quote(path, kMaxPathInMessage)));
  }
  return path;
}

// "7.2.3+deb14 (who@where) #1 SMP ..." -> release and version. The release comes from the image and goes into
// paths and the guest's files, so only harmless characters are taken.
bool split_version(std::string_view text, std::string& release, std::string& version) {
  const std::string_view word = text.substr(0, text.find(' '));
  const bool harmless = !word.empty() && word.size() <= KernelImage::kMaxRelease && word.front() != '.' &&
                        std::all_of(word.begin(), word.end(), [](char c) {
                          return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                                 std::string_view("._+~:-@,=").find(c) != std::string_view::npos;
                        });
  if (!harmless) return false;
  release = word;
  const std::size_t hash = text.find(" #");
  version = hash == std::string_view::npos ? "" : text.substr(hash + 1);
  while (!version.empty() && version.back() == '\n') version.pop_back();
  const bool printable = std::all_of(version.begin(), version.end(),
                                     [](char c) { return c >= ' ' && static_cast<unsigned char>(c) < 0x7f; });
  if (!printable) version.clear();
  return true;
}

// linux_banner of init/version.c: "Linux version <release> (<builder>) (<compiler>) <version>\n". Another
// copy without the build's number may stand before it; any will do.
std::string_view find_banner(const ElfView& elf) {
  const ElfSection* rodata = elf.section(".rodata");
  const std::string_view text = as_text(rodata != nullptr ? rodata->bytes : elf.image());
  std::size_t at = 0;
  std::string_view fallback;
  for (int tries = 0; tries < 64; ++tries) {
    at = text.find(kBanner, at);
    if (at == std::string_view::npos) break;
    at += kBanner.size();
    const std::string_view line = text.substr(at, kMaxBanner);
    const std::string_view banner = line.substr(0, line.find_first_of(std::string_view("\0\n", 2)));
    if (banner.empty() || banner.front() < '0' || banner.front() > '9') continue;
    if (banner.find(" # ") == std::string_view::npos) return banner;
    if (fallback.empty()) fallback = banner;
  }
  return fallback;
}

std::uint64_t loaded_extent(const ElfView& elf) {
  std::uint64_t low = UINT64_MAX;
  std::uint64_t high = 0;
  for (const Elf64_Phdr& segment : elf.segments()) {
    if (segment.p_type != PT_LOAD || segment.p_memsz > UINT64_MAX - segment.p_paddr) continue;
    low = std::min(low, segment.p_paddr);
    high = std::max(high, segment.p_paddr + segment.p_memsz);
  }
  return high > low ? high - low : 0;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

bool changed_since(int fd, const struct stat& before) {
  struct stat now = {};
  return ::fstat(fd, &now) != 0 || now.st_size != before.st_size ||
         now.st_mtim.tv_sec != before.st_mtim.tv_sec || now.st_mtim.tv_nsec != before.st_mtim.tv_nsec;
}

Expected<UniqueFd> reopen(const UniqueFd& fd) {
  // Not dup(2): the copy gets its own file offset.
  UniqueFd copy(::open(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!copy) return fail_errno(ErrorCode::kHost, "cannot reopen the kernel image");
  return copy;
}

}  // namespace

Expected<KernelImage> KernelImage::open(const std::string& path) {
  return open(path, ImageCache(ImageCache::default_folder()));
}

Expected<KernelImage> KernelImage::open(const std::string& path, const ImageCache& cache) {
  auto image_path = resolve(path);
  if (!image_path) return std::unexpected(std::move(image_path.error()));
  KernelImage image;
  image.image_path_ = std::move(*image_path);
  // O_NONBLOCK: should the path have become a FIFO meanwhile, opening it must not wait for a writer.
  image.file_.reset(::open(image.image_path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!image.file_) return fail_errno(ErrorCode::kUsage, "cannot open the kernel " + image.what());
  struct stat st = {};
  if (::fstat(image.file_.get(), &st) != 0)
    return fail_errno(ErrorCode::kHost, "cannot stat " + image.what());
  if (!S_ISREG(st.st_mode))
    return fail(ErrorCode::kUsage, image.what() + " is no kernel: it is not a regular file");
  if (st.st_size == 0) return fail(ErrorCode::kUsage, image.what() + " is no kernel: it is empty");
  const auto size = static_cast<std::uint64_t>(st.st_size);

  // Enough to tell what it is, and all of a bzImage's setup code.
  std::vector<std::byte> head(std::min<std::uint64_t>(size, kMaxSetupSize));
  const ssize_t got = ::pread(image.file_.get(), head.data(), head.size(), 0);
  if (got < 0) return fail_errno(ErrorCode::kHost, "cannot read " + image.what());
  head.resize(static_cast<std::size_t>(got));
  Expected<> loaded;
  if (looks_like_bzimage(head)) {
    loaded = image.load_bzimage(cache, head, size);
  } else if (as_text(head).starts_with(ELFMAG)) {
    loaded = image.load_vmlinux(size);
  } else {
    const std::string found = describe_foreign_image(head);
    return fail(ErrorCode::kUsage,
                fmt::format("{} is no x86-64 kernel{}; a bzImage, a vmlinux, a kernel build tree or an "
                            "unpacked kernel package is needed",
                            image.what(), found.empty() ? "" : ": it is " + found));
  }
  if (!loaded) return std::unexpected(std::move(loaded.error()));
  if (auto ok = image.identify(); !ok) return std::unexpected(std::move(ok.error()));
  if (changed_since(image.file_.get(), st)) {
    return fail(ErrorCode::kUsage, image.what() + " changed while it was read; is it being built?");
  }
  image.files_ = find_kernel_files(image.image_path_, image.release_);
  image.find_config();
  image.decide_sched_ext();
  image.release_pages();
  return image;
}

std::string KernelImage::what() const {
  return quote(image_path_, kMaxPathInMessage);
}

Expected<> KernelImage::load_bzimage(const ImageCache& cache, std::span<const std::byte> head,
                                     std::uint64_t file_size) {
  kind_ = ImageKind::kBzImage;
  if (file_size > kMaxBzImageSize) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} has {} bytes; a bzImage may have {}", what(), file_size, kMaxBzImageSize));
  }
  auto header = parse_setup_header(head, file_size, what());
  if (!header) return std::unexpected(std::move(header.error()));
  setup_ = std::move(*header);

  auto key = cache.key_of(file_.get(), file_size);
  if (!key) return propagate(std::move(key.error()), "reading " + what());
  auto unpacked = cache.find(*key);
  if (!unpacked) {
    auto snapshot = read_snapshot(file_.get(), file_size);
    if (!snapshot) return propagate(std::move(snapshot.error()), "reading " + what());
    const auto payload = snapshot->bytes().subspan(setup_->payload_offset, setup_->payload_size);
    unpacked = cache.open(Xxh3::hex_of(snapshot->bytes()),
                          [payload](const PayloadSink& sink) { return unpack_payload(payload, sink); });
  }
  if (!unpacked) return propagate(std::move(unpacked.error()), "unpacking " + what());
  auto elf = ElfView::parse(unpacked->bytes(), what());
  if (!elf) return std::unexpected(std::move(elf.error()));
  elf_ = std::move(*elf);
  mapping_ = std::move(unpacked->mapping);
  payload_ = std::move(unpacked->fd);
  from_cache_ = unpacked->from_cache;
  cache_entry_ = std::move(unpacked->path);
  cache_note_ = std::move(unpacked->note);
  return {};
}

Expected<> KernelImage::load_vmlinux(std::uint64_t file_size) {
  kind_ = ImageKind::kVmlinux;
  if (file_size > kMaxVmlinuxSize) {
    return fail(ErrorCode::kUsage,
                fmt::format("{} has {} bytes; a vmlinux may have {}", what(), file_size, kMaxVmlinuxSize));
  }
  auto mapping = Mapping::map(file_.get(), file_size, PROT_READ, MAP_PRIVATE);
  if (!mapping) return propagate(std::move(mapping.error()), "reading " + what());
  auto elf = ElfView::parse(mapping->bytes(), what());
  if (!elf) return std::unexpected(std::move(elf.error()));
  elf_ = std::move(*elf);
  mapping_ = std::move(*mapping);
  return {};
}

// Release, size, build id, entry, types.
Expected<> KernelImage::identify() {
  if (elf_.type() != ET_EXEC && elf_.type() != ET_DYN) {
    return fail(ErrorCode::kUsage, what() + " is no kernel: it is an ELF object file (a kernel module?)");
  }
  // The setup header is what a boot loader shows, the banner what the kernel says; they are made in the same
  // build.
  if ((!setup_ || !split_version(setup_->version, release_, uts_version_)) &&
      !split_version(find_banner(elf_), release_, uts_version_)) {
    return fail(ErrorCode::kUsage, what() + " is no Linux kernel: there is no \"Linux version ...\" in it");
  }
  init_size_ = setup_ && setup_->init_size != 0 ? setup_->init_size : loaded_extent(elf_);
  if (init_size_ == 0) return fail(ErrorCode::kUsage, what() + " is no kernel: its ELF has nothing to load");

  if (const auto note = elf_.note("GNU", NT_GNU_BUILD_ID)) {
    build_id_ = hex(note->bytes.first(std::min(note->bytes.size(), kMaxBuildId)));
  }
  if (const auto note = elf_.note("Xen", kXenPhys32Entry)) {
    if (const auto wide = load<std::uint64_t>(note->bytes, 0)) {
      pvh_entry_ = wide;
    } else if (const auto narrow = load<std::uint32_t>(note->bytes, 0)) {
      pvh_entry_ = *narrow;
    }
  }
  const ElfSection* section = elf_.section(".BTF");
  if (section == nullptr || section->bytes.empty()) {
    btf_note_ = "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)";
    return {};
  }
  auto btf = Btf::parse(section->bytes);
  release_pages();
  if (btf) {
    btf_ = std::move(*btf);
  } else {
    btf_note_ = btf.error().to_string();
  }
  return {};
}

// What was looked at stays in the page cache, but need not count as this process's memory (12 MB of types and
// tables).
void KernelImage::release_pages() const {
  static_cast<void>(::madvise(mapping_.mutable_bytes().data(), mapping_.size(), MADV_DONTNEED));
}

// The marker is looked for piece by piece, so that 7 to 60 MB are never in memory all at once.
std::optional<KernelConfig> KernelImage::embedded_config() {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  const ElfSection* rodata = elf_.section(".rodata");
  auto rest = rodata != nullptr ? rodata->bytes : elf_.image();
  while (!KernelConfig::may_embed(rest.first(std::min(rest.size(), kPiece + KernelConfig::kMarkerSize)))) {
    if (rest.size() <= kPiece) return std::nullopt;
    rest = rest.subspan(kPiece);
    release_pages();
  }
  return KernelConfig::find_embedded(rest);
}

void KernelImage::find_config() {
  if (auto embedded = embedded_config()) {
    config_ = std::move(*embedded);
    return;
  }
  if (!files_.config.empty()) {
    auto config = KernelConfig::read_file(files_.config);
    if (config) {
      config_ = std::move(*config);
      return;
    }
    config_note_ = config.error().to_string();
  }
  config_ = derive_config(
      {.release = release_, .uts_version = uts_version_, .btf = btf(), .pvh_entry = has_pvh_entry()});
}

void KernelImage::decide_sched_ext() {
  constexpr const char* kOption = "CONFIG_SCHED_CLASS_EXT";
  if (btf_ && btf_->has_struct("task_struct")) {
    sched_ext_.present = btf_->has_struct("sched_ext_entity");
    sched_ext_.reason =
        sched_ext_.present
            ? "struct sched_ext_entity is in the kernel's BTF"
            : fmt::format("{} is not set: the kernel's BTF has no struct sched_ext_entity", kOption);
    return;
  }
  const std::string why = btf_ ? "the kernel's BTF has no scheduler types" : btf_note_;
  sched_ext_.present = config_.enabled(kOption);
  if (sched_ext_.present) {
    sched_ext_.reason = fmt::format("{}=y in {}; {}", kOption, config_.source(), why);
  } else if (config_.complete()) {
    sched_ext_.reason = fmt::format("{} is not set in {}; {}", kOption, config_.source(), why);
  } else {
    sched_ext_.reason = fmt::format("{}, without which {} can not be set", why, kOption);
  }
}

Expected<UniqueFd> KernelImage::payload_fd() const {
  return reopen(kind_ == ImageKind::kVmlinux ? file_ : payload_);
}

Expected<UniqueFd> KernelImage::image_fd() const {
  if (kind_ == ImageKind::kVmlinux) {
    return fail(ErrorCode::kUsage, fmt::format("{} is a vmlinux; what is asked for needs a bzImage", what()));
  }
  return reopen(file_);
}

std::optional<std::string> KernelImage::modules_dir() const {
  if (files_.modules.empty()) return std::nullopt;
  return files_.modules;
}

}  // namespace ktstr
