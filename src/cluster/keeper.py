"""Keeps one program of the cluster and everything that descends from it.

    keeper.py [--pgdata FOLDER] [--remove FOLDER] -- PROGRAM ARGUMENT...

Standard input is a pipe from the supervisor. When it ends, because the supervisor went or asked for it, every
descendant is ended, PostgreSQL by its immediate shutdown so that it gives back its shared memory. As the subreaper the
keeper stays an ancestor of a PostgreSQL that outlives its Patroni. With --remove the last keeper to go after the
supervisor removes the folder of the cluster. Written for Linux and Python's standard library alone.
"""
import ctypes
import fcntl
import os
import select
import shutil
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IPC_RMID = 0
PATIENCE_SECONDS = 3.0

libc = ctypes.CDLL(None, use_errno=True)


def descendants(root):
    """All descendants of a process, parents before children."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry, "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry))
    found, queue = [], [root]
    while queue:
        for pid in children.get(queue.pop(0), ()):
            found.append(pid)
            queue.append(pid)
    return found


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def reap():
    """Buries the dead; False when no child is left."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return True
        except ChildProcessError:
            return False


def postmaster_lines(pgdata):
    try:
        with open(os.path.join(pgdata, "postmaster.pid")) as lines:
            return lines.read().split("\n")
    except (OSError, TypeError):
        return []


def end_all(pgdata):
    """Patroni and everything else is killed, PostgreSQL shuts down at once; looked after until nothing is left."""
    asked = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while reap():
        everyone = descendants(os.getpid())
        postmaster = [int(pid) for pid in postmaster_lines(pgdata)[:1] if pid.isdigit() and int(pid) in everyone]
        spared = set(postmaster)
        for pid in postmaster:
            spared.update(descendants(pid))
        if time.monotonic() > deadline:
            spared = set()
        send([pid for pid in everyone if pid not in spared], signal.SIGKILL)
        send(spared - asked, signal.SIGCONT)
        send(set(postmaster) - asked, signal.SIGQUIT)
        asked |= spared
        time.sleep(0.02)


def give_back_shared_memory(pgdata):
    """What a PostgreSQL that was killed leaves in the kernel; line 7 of postmaster.pid holds the segment's key and id."""
    words = (postmaster_lines(pgdata) + [""] * 7)[6].split()
    if len(words) == 2 and words[1].isdigit():
        libc.shmctl(int(words[1]), IPC_RMID, None)


def start(command):
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execvp(command[0], command)
        except BaseException as error:
            print("keeper: %s: %s" % (command[0], error), file=sys.stderr, flush=True)
        os._exit(127)
    return pid


def watch_until_over():
    """True when the supervisor wants it over or is gone; False when every descendant has ended by itself."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    while reap():
        ready, _, _ = select.select([0, wake_read], [], [], 1.0)
        if wake_read in ready and signal.SIGTERM in os.read(wake_read, 4096):
            return True
        if 0 in ready and not os.read(0, 4096):
            return True
    return False


def remove(folder, lock):
    """The lock is shared by all keepers of the cluster: only the last one gets it for itself."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    shutil.rmtree(folder, ignore_errors=True)


def main(arguments):
    split = arguments.index("--")
    options = dict(zip(arguments[:split:2], arguments[1:split:2]))
    pgdata, folder = options.get("--pgdata"), options.get("--remove")
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    lock = None
    if folder:
        lock = open(os.path.join(folder, "keepers.lock"), "a")
        fcntl.flock(lock, fcntl.LOCK_SH)
    start(arguments[split + 1:])
    over = watch_until_over()
    if over:
        end_all(pgdata)
    give_back_shared_memory(pgdata)
    if over and folder:
        remove(folder, lock)


if __name__ == "__main__":
    main(sys.argv[1:])
