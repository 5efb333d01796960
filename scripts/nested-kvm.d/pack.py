"""Packs the initramfs of nested-kvm's L1 guest: everything that a command line names, and what that needs.

    pack.py --output FILE --most BYTES --cwd FOLDER [--file GUEST-PATH=HOST-FILE]... [--take PATH]... [--value TEXT]...
            [--program NAME]... -- WORD...

A WORD that is a path of this host (also behind "=" or before a blank, as in --kernel=PATH or --scheduler "PATH -x") is
taken along at the same path, whatever links lead to it included; so is a part of a VALUE (of an environment variable)
between colons. --take takes a path that must exist, --program a program of PATH. With a file come along:

    a dynamic program    its interpreter and shared libraries, as ldd finds them
    a script             its interpreter
    ktstr-vm             ktstr-guest and ktstr-sched beside it
    a kernel image       configuration and modules (the folder that fetch-kernel made, or those files of a build tree
                         that ktstr-vm looks for), and its entry in the cache of unpacked kernels
    --scheduler NAME     the programs that ktstr-vm would find by that name

Debug information of programs above 16 MiB is left out; the stripped copies are kept in the cache folder.

The last line on standard output is "FILES BYTES".
"""
import argparse
import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "ktstr-vm"
NOT_FILES = ("/dev", "/proc", "/sys", "/run")
STRIP_ABOVE = 16 << 20
STRIPPED_DAYS = 7
# What find_kernel_files() of ktstr-vm looks for in a build tree, apart from modules.
TREE_FILES = ("arch/x86/boot/bzImage", "vmlinux", ".config", "System.map", "include/config/kernel.release", "modules.order",
              "modules.builtin", "modules.builtin.modinfo")


def fail(what, remedy=""):
    print(f"nested-kvm: error: {what}" + (f"\n  {remedy}" if remedy else ""), file=sys.stderr)
    sys.exit(125)


def is_below(path, folder):
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class Pack:
    """Entries of the archive by guest path: (mode, host file or None, link target or None)."""

    def __init__(self):
        self.entries = {}
        self.images = set()

    def add_folder(self, path, mode=0o755):
        if path == "/" or path in self.entries:
            return
        self.add_folder(os.path.dirname(path))
        self.entries[path] = (stat.S_IFDIR | mode, None, None)

    def add_file(self, guest_path, host_file):
        self.add_folder(os.path.dirname(guest_path))
        mode = os.stat(host_file).st_mode
        self.entries[guest_path] = (stat.S_IFREG | (mode & 0o7777), host_file, None)

    def real_path(self, path):
        """Adds the links on the way to `path`; returns where they lead."""
        done, rest, links = "/", [part for part in path.split("/") if part], 0
        while rest:
            here = os.path.join(done, rest.pop(0))
            here = os.path.normpath(here)
            if not os.path.islink(here):
                done = here
                continue
            links += 1
            if links > 40:
                fail(f"{path} is a circle of links")
            target = os.readlink(here)
            self.add_folder(os.path.dirname(here))
            self.entries[here] = (stat.S_IFLNK | 0o777, None, target)
            done = os.path.dirname(here)
            rest = [part for part in target.split("/") if part] + rest
            if target.startswith("/"):
                done = "/"
        return done

    def take(self, path):
        """Takes a file or a folder with everything in it."""
        real = self.real_path(path)
        if any(is_below(real, folder) for folder in NOT_FILES):
            return
        if os.path.isdir(real):
            self.take_folder(real)
        elif os.path.isfile(real) and real not in self.entries:
            self.take_file(real)

    def take_folder(self, folder):
        if os.path.exists(os.path.join(folder, TREE_FILES[0])):
            self.take_build_tree(folder)
            return
        self.add_folder(folder)
        for parent, folders, files in os.walk(folder):
            self.add_folder(parent)
            for name in folders + files:
                path = os.path.join(parent, name)
                if os.path.islink(path):
                    # One that leads out of the folder would bring along who knows what.
                    self.entries[path] = (stat.S_IFLNK | 0o777, None, os.readlink(path))
                elif os.path.isfile(path) and path not in self.entries:
                    self.take_file(path)

    def take_file(self, path):
        self.add_file(path, path)
        name = os.path.basename(path)
        if name.startswith(("vmlinuz", "bzImage")):
            self.take_kernel(path)
        if name == "ktstr-vm":
            for companion in ("ktstr-guest", "ktstr-sched"):
                beside = os.path.join(os.path.dirname(path), companion)
                if os.path.isfile(beside):
                    self.take(beside)
        if os.access(path, os.X_OK) and not name.endswith(".ko"):
            self.take_needs(path)

    def take_needs(self, path):
        with open(path, "rb") as file:
            start = file.read(256)
        if start.startswith(b"#!"):
            words = start[2:].split(b"\n")[0].decode(errors="replace").split()
            for word in words[:2]:
                program = shutil.which(word)
                if program:
                    self.take(program)
        if not start.startswith(b"\x7fELF"):
            return
        listed = subprocess.run(["ldd", path], capture_output=True, text=True)
        if listed.returncode != 0:
            return  # static
        lost = re.findall(r"^\s*(\S+) => not found", listed.stdout, re.M)
        if lost:
            fail(f"{path} needs shared libraries that are not there: {' '.join(lost)}")
        for library in re.findall(r"(?:=> |^\s*)(/\S+) \(", listed.stdout, re.M):
            self.take(library)
        if os.path.getsize(path) > STRIP_ABOVE:
            self.entries[path] = (self.entries[path][0], stripped(path), None)

    def take_kernel(self, image):
        """What belongs to a kernel image."""
        if image in self.images:
            return
        self.images.add(image)
        packages = os.path.realpath(CACHE / "kernels")
        tree = os.path.dirname(image).removesuffix("/arch/x86/boot")
        if is_below(image, packages):
            release = os.path.relpath(image, packages).split("/")[0]
            self.take_folder(os.path.join(packages, release))
        elif tree != os.path.dirname(image):
            self.take_build_tree(tree)
        else:
            self.take_siblings(image)
        self.take_unpacked(image)

    def take_siblings(self, image):
        folder, name = os.path.split(image)
        release = name.partition("-")[2]
        suffix = "-" + release if release else ""
        for sibling in ("config", "System.map", "vmlinux", ".config"):
            path = os.path.join(folder, sibling + (suffix if sibling[0] != "." else ""))
            if os.path.isfile(path):
                self.take(path)
        if release and os.path.isdir(f"/lib/modules/{release}"):
            self.take(f"/lib/modules/{release}")

    def take_build_tree(self, tree):
        self.add_folder(tree)
        for name in TREE_FILES:
            path = os.path.join(tree, name)
            if os.path.isfile(path) and path not in self.entries:
                self.take(path)
        order = pathlib.Path(tree, "modules.order")
        for line in order.read_text().split() if order.is_file() else []:
            module = os.path.normpath(os.path.join(tree, re.sub(r"\.o$", ".ko", line)))
            if is_below(module, tree) and os.path.isfile(module):
                self.add_file(module, module)

    def take_unpacked(self, image):
        # host/kernel/image_cache.h: known-<device>-<inode> ends with the name of the entry.
        st = os.stat(image)
        known = CACHE / "images" / f"known-{st.st_dev:x}-{st.st_ino:x}"
        try:
            key = known.read_bytes()[-32:].decode()
        except (OSError, UnicodeDecodeError):
            return
        for suffix in (".elf", ".sym"):
            entry = CACHE / "images" / (key + suffix)
            if entry.is_file():
                self.take(str(entry))
                self.add_folder(str(CACHE / "images"), 0o700)

    def write(self, output):
        with open(output, "wb") as file:
            for number, (path, (mode, host_file, target)) in enumerate(sorted(self.entries.items()), 1):
                self.write_entry(file, number, path, mode, host_file, target)
            self.write_entry(file, 0, "/TRAILER!!!", 0, None, None)

    @staticmethod
    def write_entry(file, number, path, mode, host_file, target):
        def pad():
            file.write(b"\0" * (-file.tell() % 4))

        # Documentation/driver-api/early-userspace/buffer-format.rst of the kernel: "newc", thirteen hexadecimal fields.
        name = path[1:].encode() + b"\0"
        source = open(host_file, "rb") if host_file else None
        st = os.fstat(source.fileno()) if source else None
        size = st.st_size if st else len(os.fsencode(target)) if target else 0
        mtime = int(st.st_mtime) & 0xFFFFFFFF if st else 0
        fields = (number, mode, 0, 0, 1, mtime, size, 0, 0, 0, 0, len(name), 0)
        file.write(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        pad()
        if source:
            with source:
                shutil.copyfileobj(source, file, 1 << 20)
        elif target:
            file.write(os.fsencode(target))
        pad()


def stripped(path):
    st = os.stat(path)
    folder = CACHE / "nested-kvm" / "stripped"
    folder.mkdir(parents=True, exist_ok=True)
    identity = f"{path} {st.st_dev} {st.st_ino} {st.st_size} {st.st_mtime_ns} {st.st_ctime_ns}"
    copy = folder / hashlib.sha256(identity.encode()).hexdigest()[:24]
    if not copy.exists():
        for old in folder.iterdir():
            if old.stat().st_mtime < max(0, os.stat(folder).st_mtime - STRIPPED_DAYS * 86400):
                old.unlink(missing_ok=True)
        new = copy.with_suffix(f".{os.getpid()}")
        subprocess.run(["strip", "--strip-debug", "-o", str(new), path], check=True)
        new.rename(copy)
    os.utime(copy)
    return str(copy)


def schedulers_named(name):
    folders = os.environ.get("KTSTR_SCHEDULER_PATH", "").split(":") + [str(p) for p in (CACHE / "schedulers").glob("*")]
    found = [os.path.join(folder, name) for folder in folders if folder and os.path.isfile(os.path.join(folder, name))]
    in_path = shutil.which(name)
    return found + ([in_path] if in_path else [])


def named_paths(words, cwd):
    """Existing paths that the words name."""
    previous = ""
    for word in words:
        option, equals, value = word.partition("=")
        name = option if equals else previous
        previous = word
        if name == "--out":
            continue
        texts = [word] + ([value] if equals else [])
        for text in texts + [text.split()[0] for text in texts if text.split()]:
            path = os.path.normpath(os.path.join(cwd, text))
            if name == "--scheduler" and "/" not in text:
                yield from schedulers_named(text)
            elif text and os.path.exists(path) and not is_below(cwd, path) and path != "/tmp":
                # A bare word is more often a command than a folder that happens to have its name.
                if not os.path.isdir(path) or "/" in text or name.startswith("-"):
                    yield path


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--output", required=True)
    parser.add_argument("--most", type=int, required=True)
    parser.add_argument("--cwd", required=True)
    for name in ("file", "take", "value", "program"):
        parser.add_argument("--" + name, action="append", default=[])
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    pack = Pack()
    for pair in options.file:
        pack.add_file(*pair.split("=", 1))
    for name in options.program:
        program = shutil.which(name)
        if not program:
            fail(f"{name} is not installed")
        pack.take(program)
    for path in options.take:
        absolute = os.path.normpath(os.path.join(options.cwd, path))
        if not os.path.exists(absolute):
            fail(f"--take {path}: there is no such file")
        pack.take(absolute)
    for path in named_paths(options.words, options.cwd):
        pack.take(path)
    for value in options.value:
        for path in [value] + value.split(":"):
            if path.startswith("/") and os.path.exists(path) and not is_below(options.cwd, os.path.normpath(path)) and path != "/tmp":
                pack.take(os.path.normpath(path))
    for path in ("/etc/ld.so.cache", "/etc/passwd", "/etc/group"):
        if os.path.exists(path):
            pack.take(path)
    sizes = {path: os.path.getsize(file) for path, (_, file, _) in pack.entries.items() if file}
    total = sum(sizes.values())
    if total > options.most:
        large = sorted(sizes, key=sizes.get, reverse=True)[:5]
        fail(f"the files that the command names have {total >> 20} MiB, more than the {options.most >> 20} MiB that fit",
             "give L1 more with --memory, or name less; the largest are: " +
             ", ".join(f"{path} ({sizes[path] >> 20} MiB)" for path in large))
    pack.write(options.output)
    print(len(pack.entries), total)


if __name__ == "__main__":
    main()
