// How ld.so finds a library, in the order it tries (ld.so(8), glibc's elf/dl-load.c and dl-deps.c):
//
//   1. Has an object with this name, or with this DT_SONAME, been loaded already? Then that one is meant,
//   whatever any
//      search path says.
//   2. A name with a slash is a path.
//   3. DT_RPATH of the object that needs it, then of whoever caused that one to be loaded, and so on up to
//   the program.
//      None of this when the needing object has a DT_RUNPATH; an ancestor with a DT_RUNPATH is stepped over.
//   4. LD_LIBRARY_PATH.
//   5. DT_RUNPATH of the needing object only. It is not inherited.
//   6. /etc/ld.so.cache.
//   7. The built-in folders.
//
// 6 and 7 are limited by DF_1_NODEFLIB. A candidate of another architecture is passed over and the search
// goes on; a candidate that is not ELF at all ends it with an error. A found file that has the device and
// inode of a loaded one is that one. Objects are processed breadth first: the order decides who counts as the
// loader in step 3.
//
// Every folder exists twice here: where it is on the host, and where ld.so will look in the guest. They
// differ where $ORIGIN or the working folder is involved, because the program may be packed at another place.
#include "host/boot/elf_closure.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"
#include "common/unique_fd.h"
#include "host/boot/elf_file.h"
#include "host/boot/ld_cache.h"

namespace ktstr {
namespace {

namespace fs = std::filesystem;

// The largest desktop programs load some 400 libraries.
constexpr std::size_t kMaxObjects = 2048;
// A large program tries some thousands; a hostile search path must not keep us busy for minutes.
constexpr std::size_t kMaxCandidates = 200'000;
constexpr std::size_t kMaxShownPlaces = 40;
constexpr std::size_t kMaxShownPath = 512;
constexpr std::size_t kMaxPath = 4096;
constexpr std::size_t kNone = SIZE_MAX;

// A folder or file, on the host and in the guest. The guest's is not normalized: "/a/../b" needs "/a" to
// exist.
struct Place {
  std::string host;
  std::string guest;
};

struct Object {
  std::string name;
  Place file;
  ElfDynamic dynamic;
  dev_t device = 0;
  ino_t inode = 0;
  std::size_t loader = kNone;
  std::set<std::string, std::less<>> names;
};

std::string shown(std::string_view path) {
  return quote(path, kMaxShownPath);
}

std::string parent(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string normalized(const std::string& path) {
  const fs::path normal = fs::path(path).lexically_normal();
  return normal.has_filename() || normal == "/" ? normal.string() : normal.parent_path().string();
}

std::string join(const std::string& folder, std::string_view name) {
  return folder.ends_with('/') ? fmt::format("{}{}", folder, name) : fmt::format("{}/{}", folder, name);
}

std::vector<std::string> split(std::string_view text, std::string_view separators) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = text.find_first_of(separators);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// Length of the token `name` ("ORIGIN" or "{ORIGIN}") at the start of `text`, behind its '$'; 0 when it is
// not there.
std::size_t token_length(std::string_view text, std::string_view name) {
  const bool braces = text.starts_with('{');
  if (braces) text.remove_prefix(1);
  if (!text.starts_with(name)) return 0;
  text.remove_prefix(name.size());
  if (braces) return text.starts_with('}') ? name.size() + 2 : 0;
  const bool goes_on =
      !text.empty() && (std::isalnum(static_cast<unsigned char>(text[0])) != 0 || text[0] == '_');
  return goes_on ? 0 : name.size();
}

class Resolver {
 public:
  Resolver(std::string program, const LibrarySearch& search)
      : program_(std::move(program)), search_(search) {}

  Expected<ElfClosure> run();

 private:
  Expected<void> load_program();
  Expected<void> load_interpreter();
  Expected<void> load_needed(std::size_t needer, const ElfNeeded& needed);
  Expected<bool> search(std::size_t needer, const std::string& name);
  Expected<bool> search_folders(std::size_t needer, const std::string& name,
                                const std::vector<Place>& folders);
  Expected<bool> search_rpath(std::size_t needer, const std::string& name);
  Expected<bool> search_cache(std::size_t needer, const std::string& name);
  Expected<bool> try_file(std::size_t needer, const std::string& name, const Place& file,
                          bool from_cache = false);
  void add_alias(std::size_t object, std::size_t needer, const std::string& name, const Place& file,
                 bool from_cache);
  void require_folders(const std::string& guest_path);

  Place expand(std::string_view text, std::size_t object) const;
  Place anchored(Place place) const;
  std::vector<Place> folders_of(std::string_view path_list, std::string_view separators,
                                std::size_t object) const;
  std::vector<std::string> chain(std::size_t object) const;
  Error missing(std::size_t needer, const std::string& name) const;
  std::string who() const;

  const std::string program_;
  const LibrarySearch& search_;
  std::string host_working_directory_;
  std::string lib_token_;
  std::optional<LdCache> cache_;
  std::vector<Object> objects_;
  std::map<std::pair<dev_t, ino_t>, std::size_t> by_inode_;
  std::set<std::string> directories_;
  std::size_t candidates_ = 0;
  std::vector<std::string> looked_at_;  // for the message about the library that is being searched
  ElfClosure closure_;
};

// "scheduler 'scx_foo'"
std::string Resolver::who() const {
  return fmt::format("{} {}", search_.role, shown(objects_[0].name));
}

std::vector<std::string> Resolver::chain(std::size_t object) const {
  std::vector<std::string> names;
  for (; object != kNone; object = objects_[object].loader) names.push_back(objects_[object].name);
  std::ranges::reverse(names);
  return names;
}

Error Resolver::missing(std::size_t needer, const std::string& name) const {
  const auto names = chain(needer);
  std::string via;
  for (std::size_t i = 1; i < names.size(); ++i) via += (i == 1 ? "via " : ", ") + names[i];
  if (!via.empty()) via = " (" + via + ")";
  Error error(ErrorCode::kStartFailed,
              fmt::format("{} needs {}{}, which is not installed", who(), name, via));
  std::string detail;
  for (std::size_t i = 0; i < std::min(looked_at_.size(), kMaxShownPlaces); ++i) {
    detail += (i == 0 ? "looked at: " : "\n           ") + looked_at_[i];
  }
  if (looked_at_.size() > kMaxShownPlaces) detail += "\n           ...";
  return std::move(error).with_detail(std::move(detail));
}

// Puts a relative place below the working folders.
Place Resolver::anchored(Place place) const {
  if (!place.host.starts_with('/')) place.host = join(host_working_directory_, place.host);
  if (!place.guest.starts_with('/')) place.guest = join(search_.guest_working_directory, place.guest);
  return place;
}

// Replaces $ORIGIN, $LIB and $PLATFORM as they stand in a string of `object`. Unknown tokens stay as they
// are.
Place Resolver::expand(std::string_view text, std::size_t object) const {
  Place out;
  while (!text.empty()) {
    const std::size_t dollar = std::min(text.find('$'), text.size());
    out.host += text.substr(0, dollar);
    out.guest += text.substr(0, dollar);
    text.remove_prefix(dollar);
    if (text.empty()) break;
    text.remove_prefix(1);
    if (const std::size_t origin = token_length(text, "ORIGIN"); origin > 0) {
      out.host += parent(objects_[object].file.host);
      out.guest += parent(objects_[object].file.guest);
      text.remove_prefix(origin);
    } else if (const std::size_t lib = token_length(text, "LIB"); lib > 0) {
      out.host += lib_token_;
      out.guest += lib_token_;
      text.remove_prefix(lib);
    } else if (const std::size_t platform = token_length(text, "PLATFORM"); platform > 0) {
      out.host += search_.platform_token;
      out.guest += search_.platform_token;
      text.remove_prefix(platform);
    } else {
      out.host += '$';
      out.guest += '$';
    }
  }
  return out;
}

std::vector<Place> Resolver::folders_of(std::string_view path_list, std::string_view separators,
                                        std::size_t object) const {
  std::vector<Place> folders;
  if (path_list.empty()) return folders;
  for (const std::string& element : split(path_list, separators)) {
    // An empty element is the working folder.
    folders.push_back(anchored(expand(element.empty() ? "." : element, object)));
  }
  return folders;
}

// Remembers the folders that must exist in the guest for "/a/b/../c" to lead to "/a/c".
void Resolver::require_folders(const std::string& guest_path) {
  std::size_t at = 0;
  while ((at = guest_path.find("/..", at)) != std::string::npos) {
    const bool is_component = at + 3 == guest_path.size() || guest_path[at + 3] == '/';
    if (is_component && at > 0) directories_.insert(normalized(guest_path.substr(0, at)));
    at += 3;
  }
}

void Resolver::add_alias(std::size_t object, std::size_t needer, const std::string& name, const Place& file,
                         bool from_cache) {
  objects_[object].names.insert(name);
  const std::string guest = normalized(file.guest);
  const std::string original = normalized(objects_[object].file.guest);
  const bool known = guest == original || std::ranges::any_of(closure_.files, [&](const ClosureFile& other) {
                       return other.guest_path == guest;
                     });
  if (known) return;
  require_folders(file.guest);
  closure_.files.push_back({.name = name,
                            .guest_path = guest,
                            .host_path = file.host,
                            .link_to = original,
                            .needed_by = chain(needer),
                            .from_cache = from_cache});
}

// Opens one candidate. False: not there, or of another architecture; the search goes on.
Expected<bool> Resolver::try_file(std::size_t needer, const std::string& name, const Place& file,
                                  bool from_cache) {
  if (++candidates_ > kMaxCandidates) {
    return fail(ErrorCode::kStartFailed,
                fmt::format("{}: its search paths lead to more than {} places", who(), kMaxCandidates));
  }
  if (file.host.size() >= kMaxPath || file.guest.size() >= kMaxPath) return false;
  looked_at_.push_back(file.host);
  // Asked before opening: to open a device can have effects.
  struct stat st = {};
  if (::stat(file.host.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  UniqueFd fd(::open(file.host.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  if (const auto same = by_inode_.find({st.st_dev, st.st_ino}); same != by_inode_.end()) {
    add_alias(same->second, needer, name, file, from_cache);
    return true;
  }
  auto elf = ElfFile::from_fd(std::move(fd), file.host);
  if (!elf)
    return propagate(std::move(elf.error()).with_code(ErrorCode::kStartFailed), "loading it for " + who());
  if (!elf->is_x86_64()) {
    looked_at_.back() += fmt::format(" (passed over: it is for {})", elf->architecture());
    return false;
  }
  if (elf->type() != ET_DYN && elf->type() != ET_EXEC) {
    return fail(ErrorCode::kStartFailed, fmt::format("{} needs {}, but {} is not a shared library", who(),
                                                     shown(name), shown(file.host)));
  }
  auto dynamic = elf->read_dynamic();
  if (!dynamic) return propagate(std::move(dynamic.error()), "loading it for " + who());
  if (objects_.size() == kMaxObjects) {
    return fail(ErrorCode::kStartFailed,
                fmt::format("{} needs more than {} libraries", who(), kMaxObjects - 1));
  }
  require_folders(file.guest);
  closure_.files.push_back({.name = name,
                            .guest_path = normalized(file.guest),
                            .host_path = file.host,
                            .link_to = {},
                            .needed_by = chain(needer),
                            .from_cache = from_cache});
  by_inode_.emplace(std::pair(elf->device(), elf->inode()), objects_.size());
  Object object{.name = name,
                .file = file,
                .dynamic = std::move(*dynamic),
                .device = elf->device(),
                .inode = elf->inode(),
                .loader = needer,
                .names = {name}};
  if (!object.dynamic.soname.empty()) object.names.insert(object.dynamic.soname);
  objects_.push_back(std::move(object));
  return true;
}

Expected<bool> Resolver::search_folders(std::size_t needer, const std::string& name,
                                        const std::vector<Place>& folders) {
  for (const Place& folder : folders) {
    auto found = try_file(needer, name, {.host = join(folder.host, name), .guest = join(folder.guest, name)});
    if (!found || *found) return found;
  }
  return false;
}

// Step 3: DT_RPATH along the chain of loaders.
Expected<bool> Resolver::search_rpath(std::size_t needer, const std::string& name) {
  bool program_seen = false;
  const auto try_object = [&](std::size_t object) -> Expected<bool> {
    program_seen = program_seen || object == 0;
    const ElfDynamic& dynamic = objects_[object].dynamic;
    if (dynamic.runpath || !dynamic.rpath) return false;
    return search_folders(needer, name, folders_of(*dynamic.rpath, ":", object));
  };
  for (std::size_t object = needer; object != kNone; object = objects_[object].loader) {
    auto found = try_object(object);
    if (!found || *found) return found;
  }
  // What the interpreter needs has no chain up to the program, whose DT_RPATH counts all the same.
  return program_seen ? Expected<bool>(false) : try_object(0);
}

// Step 6.
Expected<bool> Resolver::search_cache(std::size_t needer, const std::string& name) {
  if (search_.cache_path.empty()) return false;
  if (!cache_) {
    auto cache = LdCache::read(search_.cache_path);
    if (!cache) return std::unexpected(std::move(cache.error()));
    cache_ = std::move(*cache);
  }
  const std::string path = cache_->find(name);
  if (path.empty()) {
    looked_at_.push_back(search_.cache_path + " (has no entry for it)");
    return false;
  }
  const bool in_default =
      std::ranges::find(search_.default_directories, parent(path)) != search_.default_directories.end();
  if (in_default && objects_[needer].dynamic.no_default_libraries) return false;
  return try_file(needer, name, {.host = path, .guest = path}, true);
}

// Steps 3 to 7.
Expected<bool> Resolver::search(std::size_t needer, const std::string& name) {
  const bool has_runpath = objects_[needer].dynamic.runpath.has_value();
  if (!has_runpath) {
    auto found = search_rpath(needer, name);
    if (!found || *found) return found;
  }
  auto found = search_folders(needer, name, folders_of(search_.library_path, ":;", 0));
  if (!found || *found) return found;
  if (has_runpath) {
    found = search_folders(needer, name, folders_of(*objects_[needer].dynamic.runpath, ":", needer));
    if (!found || *found) return found;
  }
  found = search_cache(needer, name);
  if (!found || *found) return found;
  if (objects_[needer].dynamic.no_default_libraries) return false;
  std::vector<Place> defaults;
  for (const std::string& folder : search_.default_directories)
    defaults.push_back({.host = folder, .guest = folder});
  return search_folders(needer, name, defaults);
}

Expected<void> Resolver::load_needed(std::size_t needer, const ElfNeeded& needed) {
  looked_at_.clear();
  const Place name = expand(needed.name, needer);
  const bool is_path = name.host.contains('/');
  for (Object& object : objects_) {
    if (object.names.contains(name.guest)) return {};
  }
  if (name.host.empty()) {
    return fail(ErrorCode::kStartFailed,
                fmt::format("{}: {} has an empty DT_NEEDED entry", who(), shown(objects_[needer].file.host)));
  }
  auto found = is_path ? try_file(needer, name.guest, anchored(name)) : search(needer, name.host);
  if (!found) return std::unexpected(std::move(found.error()));
  if (!*found && !needed.optional) return std::unexpected(missing(needer, name.host));
  return {};
}

Expected<void> Resolver::load_program() {
  auto elf = ElfFile::open(program_);
  if (!elf) return std::unexpected(std::move(elf.error()));
  if (!elf->is_x86_64()) {
    return fail(
        ErrorCode::kStartFailed,
        fmt::format("{} {} is built for {}, the guest is x86-64{}", search_.role, shown(program_),
                    elf->architecture(),
                    elf->architecture() == "BPF" ? "; give the program that loads this BPF object" : ""));
  }
  if (elf->type() != ET_EXEC && elf->type() != ET_DYN) {
    return fail(ErrorCode::kStartFailed,
                fmt::format("{} {} is not a program but {}", search_.role, shown(program_),
                            elf->type() == ET_REL    ? "an object file (.o)"
                            : elf->type() == ET_CORE ? "a core dump"
                                                     : "another kind of ELF file"));
  }
  auto dynamic = elf->read_dynamic();
  if (!dynamic) return std::unexpected(std::move(dynamic.error()));

  // $ORIGIN of a program is where the file really is (/proc/self/exe), not the symlink it was started by.
  std::error_code failure;
  const fs::path real = fs::canonical(program_, failure);
  const std::string host = failure ? program_ : real.string();
  const std::string guest = search_.guest_path.empty() ? host : search_.guest_path;
  if (!guest.starts_with('/')) {
    return fail(ErrorCode::kUsage, fmt::format("guest path {} is not absolute", shown(guest)));
  }
  closure_.interpreter = dynamic->interpreter;
  by_inode_.emplace(std::pair(elf->device(), elf->inode()), 0);
  objects_.push_back({.name = fs::path(program_).filename().string(),
                      .file = {.host = host, .guest = guest},
                      .dynamic = std::move(*dynamic),
                      .device = elf->device(),
                      .inode = elf->inode(),
                      .names = {}});
  return {};
}

Expected<void> Resolver::load_interpreter() {
  const std::string interpreter = closure_.interpreter;
  if (interpreter.empty()) return {};
  looked_at_.clear();
  const Place place = anchored({.host = interpreter, .guest = interpreter});
  auto found = try_file(0, interpreter, place);
  if (!found) return std::unexpected(std::move(found.error()));
  if (!*found) {
    return fail(ErrorCode::kStartFailed,
                fmt::format("{} needs the program interpreter {}, which is not installed", who(),
                            shown(interpreter)));
  }
  if (objects_.size() == 2) {
    objects_[1].loader = kNone;
    objects_[1].names.insert(fs::path(interpreter).filename().string());
  }
  return {};
}

Expected<ElfClosure> Resolver::run() {
  std::error_code failure;
  host_working_directory_ =
      search_.working_directory.empty() ? fs::current_path(failure).string() : search_.working_directory;
  lib_token_ = search_.lib_token;
  if (lib_token_.empty()) {
    lib_token_ = fs::is_directory("/lib/x86_64-linux-gnu", failure) ? "lib/x86_64-linux-gnu" : "lib64";
  }
  if (auto loaded = load_program(); !loaded) return std::unexpected(std::move(loaded.error()));
  if (auto loaded = load_interpreter(); !loaded) return std::unexpected(std::move(loaded.error()));
  // Breadth first; objects_ grows while it is walked. The interpreter's own needs come after the program's,
  // as for ld.so, but it has none in practice.
  for (std::size_t i = 0; i < objects_.size(); ++i) {
    const std::vector<ElfNeeded> needed = objects_[i].dynamic.needed;
    for (const ElfNeeded& entry : needed) {
      if (auto loaded = load_needed(i, entry); !loaded) return std::unexpected(std::move(loaded.error()));
    }
  }
  closure_.directories.assign(directories_.begin(), directories_.end());
  return std::move(closure_);
}

}  // namespace

Expected<ElfClosure> elf_closure(const std::string& program, const LibrarySearch& search) {
  return Resolver(program, search).run();
}

}  // namespace ktstr
