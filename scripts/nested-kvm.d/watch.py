#!/usr/bin/env python3
"""Starts the QEMU of an L1 guest and ends it when nothing goes forward in it any more.

  watch.py --folder FOLDER --limit SECONDS --patience SECONDS -- QEMU ARGUMENT...

PID 1 of L1 writes a line into FOLDER/status every two seconds. Seconds without a new one count towards the
patience only when L1 could have run in them: time that the vCPUs' threads spent waiting for a CPU of the
host (schedstat) is the load's doing. When the patience is over, QEMU is asked for the registers and the
interrupt controllers, twice. If nothing is different the second time, L1 stands still; otherwise something
runs there, if not PID 1, and it has twice the patience more.

In FOLDER: qmp has what QMP said (its events tell why the machine stopped), picture what the registers were,
verdict why L1 was given up as dead. Neither is there when it ended by itself, no verdict when the limit was
over. The exit status is QEMU's, 128 + N after signal N, 124 when it was ended by limit or patience. SIGTERM, SIGINT and SIGHUP
end QEMU; QEMU dies with this process.
"""

import argparse
import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
QUESTIONS = ["info registers -a", "info lapic", "info pic"]
# An answer takes milliseconds; a QEMU that has none has lost its main loop.
ANSWER_SECONDS = 10
BETWEEN_PICTURES = 3


class Monitor:
    """QMP over a socket whose other end QEMU has. What it says is kept in a file."""

    def __init__(self, path):
        self.here, self.there = socket.socketpair()
        self.log = open(path, "w", encoding="utf-8")
        self.rest = b""
        self.open = True
        # Until this command QMP tells no events.
        self.send("qmp_capabilities")

    def send(self, command, **arguments):
        message = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        try:
            self.here.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.open = False

    def lines(self, seconds):
        """What has come until then, at least one line if there is one in time."""
        if not self.open:
            time.sleep(seconds)
            return []
        if not select.select([self.here], [], [], seconds)[0]:
            return []
        try:
            data = self.here.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.open = False
        *whole, self.rest = (self.rest + data).split(b"\n")
        texts = [line.decode("utf-8", "replace").strip() for line in whole]
        for text in texts:
            self.log.write(text + "\n")
        self.log.flush()
        return texts

    def ask(self, question):
        """The answer of the monitor for people; None when there is none."""
        self.send("human-monitor-command", **{"command-line": question})
        end = time.monotonic() + ANSWER_SECONDS
        while self.open and time.monotonic() < end:
            for text in self.lines(1):
                try:
                    message = json.loads(text)
                except ValueError:
                    continue
                if isinstance(message, dict) and isinstance(message.get("return"), str):
                    return message["return"].replace("\r", "")
        return None


class RunnableTime:
    """How long the process could have run or did: time that did not go to waiting for a CPU."""

    def __init__(self, pid):
        self.pid = pid
        self.waited = self.waits()
        self.at = time.monotonic()

    def waits(self):
        found = {}
        try:
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                with open(f"/proc/{self.pid}/task/{thread}/schedstat", encoding="ascii") as file:
                    found[thread] = int(file.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            pass
        return found

    def since_last(self):
        now, waited = time.monotonic(), self.waits()
        passed = now - self.at
        longest = max((waited[thread] - self.waited.get(thread, 0) for thread in waited), default=0)
        self.at, self.waited = now, waited
        return max(0.0, passed - longest)


def take_picture(monitor):
    parts = []
    for question in QUESTIONS:
        answer = monitor.ask(question)
        if answer is None:
            return None
        # Registers of the floating point unit and interrupts that are off tell nothing here.
        kept = [line for line in answer.splitlines() if not re.match(r"(FCW|FPR|XMM|YMM|ZMM|Opmask)|.*\bmasked ", line)]
        parts.append("\n".join([f"({question})"] + kept))
    return "\n".join(parts)


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


class Watch:
    def __init__(self, arguments):
        self.folder = arguments.folder
        self.limit = arguments.limit
        self.patience = arguments.patience
        self.monitor = Monitor(os.path.join(self.folder, "qmp"))
        there = self.monitor.there
        libc = ctypes.CDLL(None)
        command = arguments.command + ["-chardev", f"socket,id=qmp,fd={there.fileno()}", "-mon", "chardev=qmp,mode=control"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[there.fileno()],
                                        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        there.close()

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text + "\n")

    def remove(self, name):
        try:
            os.remove(os.path.join(self.folder, name))
        except OSError:
            pass

    def status_size(self):
        try:
            return os.path.getsize(os.path.join(self.folder, "status"))
        except OSError:
            return 0

    def stands_still(self, silence):
        """Asks QEMU, and writes down what it says and what follows from it."""
        first = take_picture(self.monitor)
        time.sleep(BETWEEN_PICTURES)
        second = take_picture(self.monitor)
        if second is None:
            self.write("picture", "QEMU's monitor does not answer")
            self.write("verdict", f"silent for {silence:.0f} s, and QEMU does not answer")
            return True
        self.write("picture", second)
        if first == second:
            self.write("verdict", f"it stood still: silent for {silence:.0f} s, no register changes")
        else:
            self.write("verdict", f"silent for {silence:.0f} s, though its CPUs run")
        return first == second

    def run(self):
        runnable = RunnableTime(self.process.pid)
        begun = time.monotonic()
        size, silence, patience = 0, 0.0, self.patience
        while self.process.poll() is None:
            self.monitor.lines(1)
            silence += runnable.since_last()
            if self.status_size() != size:
                size, silence, patience = self.status_size(), 0.0, self.patience
            if silence > patience and self.process.poll() is None:
                if self.stands_still(silence) or patience > self.patience:
                    end(self.process)
                    return 124
                patience = 3 * self.patience
            if time.monotonic() - begun > self.limit:
                self.stands_still(silence)
                self.remove("verdict")
                end(self.process)
                return 124
        while self.monitor.open and self.monitor.lines(0.1):
            pass
        # L1 went on after all.
        self.remove("verdict")
        self.remove("picture")
        status = self.process.returncode
        return 128 - status if status < 0 else status


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--patience", type=float, required=True)
    parser.add_argument("command", nargs="+")
    watch = Watch(parser.parse_args())

    def stop(number, _):
        end(watch.process)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    sys.exit(watch.run())


if __name__ == "__main__":
    main()
