"""What plain QEMU boots to: an initramfs whose init says it is there and does nothing else."""
import subprocess

MARKER = "bench: PID 1 is here"

INIT = r"""
#include <string.h>
#include <unistd.h>
int main(void) {
  static const char text[] = "\n%s\n";
  if (write(1, text, strlen(text)) < 0) return 1;
  for (;;) pause();
}
""" % MARKER


def make_initramfs(folder):
    """Compiles and packs it; the path of the archive. The kernel's own archive brings /dev/console."""
    root = folder / "plain-root"
    root.mkdir(exist_ok=True)
    subprocess.run(["cc", "-static", "-O2", "-s", "-x", "c", "-o", root / "init", "-"], input=INIT.encode(), check=True)
    archive = folder / "plain.cpio"
    with archive.open("wb") as output:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=root, input=b"init\n", stdout=output, check=True)
    return archive
