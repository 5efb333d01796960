# shellcheck shell=bash
# An apt of our own: package lists of suites that the system does not use (backports, the next
# release, unstable), kept below the cache folder, so that nothing here can change what the system
# would install. Packages are downloaded and unpacked, never installed.
# Needs lib.sh. Signatures are checked exactly as the system's apt checks them.

apt_dir=${cache_dir:?source lib.sh first}/apt
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

system_codename() {
  local name
  # shellcheck source=/dev/null
  name=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  [[ -n $name ]] || die "/etc/os-release has no VERSION_CODENAME" "this script needs a Debian release"
  printf '%s\n' "$name"
}

next_codename() {
  case $1 in
    bookworm) echo trixie ;;
    trixie) echo forky ;;
    forky) echo duke ;;
    *) die "the release after \"$1\" is not known" "add it to next_codename in scripts/lib-apt.sh" ;;
  esac
}

# What apt is set up with, one "suite component URI" a line. `indextargets` reads .list and .sources alike
# and needs no downloaded lists.
system_sources() {
  apt-get indextargets --no-release-info --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" 'Identifier: Packages'
}

has_source() { system_sources | awk -v suite="$1" '$1 == suite { found = 1 } END { exit !found }'; }

# The URI that apt already uses for a suite, component main.
mirror_uri() {
  local uri
  uri=$(system_sources | awk -v suite="$1" '$1 == suite && $2 == "main" && !uri { uri = $3 } END { print uri }')
  [[ -n $uri ]] || die "apt has no source for suite \"$1\", component main" \
    "/etc/apt/sources.list or /etc/apt/sources.list.d/ must name a Debian mirror with it"
  printf '%s\n' "$uri"
}

private_apt_configure() {
  local codename next uri suite
  [[ -r $debian_keyring ]] || die "$debian_keyring is missing" "install debian-archive-keyring"
  codename=$(system_codename)
  next=$(next_codename "$codename")
  uri=$(mirror_uri "$codename")
  mkdir -p "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial"
  for suite in "$codename-backports" "$next-backports" unstable experimental; do
    printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' "$debian_keyring" "$uri" "$suite"
  done >"$apt_dir/sources.list"
  # Read with -c, hence after the system's own configuration: proxies and the like stay in force,
  # hooks of desktop tools after an update do not. Root downloads as root because the user _apt may
  # not enter a home folder; the files are checked against signed hashes all the same.
  cat >"$apt_dir/apt.conf" <<EOF
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::SourceList "$apt_dir/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$apt_dir/lists";
Dir::Cache "$apt_dir/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
EOF
}

private_apt_get() { apt-get -q -c "$apt_dir/apt.conf" "$@"; }
private_apt_cache() { apt-cache -q -c "$apt_dir/apt.conf" "$@"; }

# private_apt_begin [--refresh]: takes the apt lock and makes sure that there are package lists, not
# older than a day. A suite that the mirror does not have costs a warning, not the run: what is
# needed may be in another one.
private_apt_begin() {
  take_lock apt
  private_apt_configure
  if [[ ${1:-} == --refresh || -z $(find "$apt_dir/stamp" -mmin -1440 2>/dev/null) ]]; then
    say "updating private package lists"
    if private_apt_get update --error-on=any >"$apt_dir/update.log" 2>&1; then
      touch "$apt_dir/stamp"
    else
      say "warning: not every suite could be updated ($apt_dir/update.log):"
      grep '^[EW]:' "$apt_dir/update.log" | head -5 >&2 || true
    fi
  fi
}

# download_and_unpack DIR PACKAGE...: PACKAGE as apt-get download takes it (name, name=version,
# name/suite). A list that is older than the mirror names files that are gone: update once, retry.
download_and_unpack() {
  local dir=$1 debs deb
  shift
  debs=$(mktemp -d "${work_dir:?call make_work_dir first}/debs.XXXXXX")
  say "downloading $*"
  if ! (cd "$debs" && private_apt_get download "$@" >"$work_dir/download.log" 2>&1); then
    private_apt_begin --refresh
    (cd "$debs" && private_apt_get download "$@" >"$work_dir/download.log" 2>&1) || {
      cat "$work_dir/download.log" >&2
      die "could not download: $*"
    }
  fi
  mkdir -p "$dir"
  for deb in "$debs"/*.deb; do
    dpkg-deb -x "$deb" "$dir"
  done
  rm -rf "$debs"
}
