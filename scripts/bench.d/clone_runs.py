"""Runs of ktstr-vm that boot, and runs that are clones."""
from common import finish, ktstr_vm, result_of

SECONDS = 1


def start(folder, mode, options, sign="plan accepted", seconds=SECONDS):
    return ktstr_vm(folder, "--accel", "tcg", "--cpus", "2", "--duration", f"{seconds}s", "--clone", mode, *options, sign=sign)


def run(folder, mode, options, seconds):
    """result.json of a whole run."""
    with start(folder, mode, options, seconds=seconds) as started:
        finish(started)
    return result_of(folder)


def keep(folder, options):
    """Runs until a guest with these options is kept (with its scheduler, if there is one): a scheduler's is kept when it
    is run the second time. The result of the run that kept it; None: it was there before."""
    point = "attached" if "--scheduler" in options else "hello"
    for _ in range(3):
        result = run(folder, "auto", options, SECONDS)
        if result["clone"].get("point") == point:
            return None
        if any(each["point"] == point and not each.get("failed") for each in result["clone"].get("saved", [])):
            return result
    raise SystemExit(f"bench: no guest is kept at {point}: {result['clone']}")
