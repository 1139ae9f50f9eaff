"""Model checkers of other people on the flat system: yosys-smtbmc by induction with our lemmas, ABC without them.

What they are asked is what the certificates say, in another encoding, with another solver: that lemmas and claims
together are inductive (yosys-smtbmc), and that no run breaks a claim (ABC's ``pdr``, which finds lemmas of its own).
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which

from formal.common.lifetime import bound
from formal.evidence.exchange.aiger import aiger
from formal.evidence.exchange.flat import Flat, only
from formal.evidence.exchange.verilog import verilog

HOLDS, FAILS, UNKNOWN = "holds", "fails", "unknown"
YOSYS, SMTBMC, ABC = "yosys", "yosys-smtbmc", "berkeley-abc"


class PeerError(Exception):
    """A peer did something else than answer; the message is one line."""


@dataclass(frozen=True)
class Answer:
    """What a peer says, and after how many seconds (without the time that it takes to read Verilog)."""

    says: str
    seconds: float


def smtbmc(model: Flat, folder: Path, seconds: float) -> Answer:
    """Whether all properties together hold at first and are inductive, says yosys-smtbmc with Z3.

    Raises:
        PeerError: if it says neither.
    """
    (folder / "flat.v").write_text(verilog(model), encoding="utf-8")
    script = "read_verilog -sv -formal flat.v; prep -top top; write_smt2 flat.smt2"
    read, _ = _run([YOSYS, "-q", "-p", script], folder, seconds)
    if read is None:
        return Answer(UNKNOWN, seconds)
    if not (folder / "flat.smt2").exists():
        raise PeerError(f"{YOSYS} does not read the system: {_last(read)}")
    spent = 0.0
    for options in (["-t", "2"], ["-i", "-t", "1"]):  # from the first states; from any state that the properties allow
        said, took = _run([SMTBMC, "-s", "z3", *options, "flat.smt2"], folder, seconds - spent)
        spent += took
        if said is None:
            return Answer(UNKNOWN, spent)
        if "Status: FAILED" in said or "Temporal induction failed" in said:
            return Answer(FAILS, spent)
        if "Status: PASSED" not in said:
            raise PeerError(f"{SMTBMC} gives no answer: {_last(said)}")
    return Answer(HOLDS, spent)


def pdr(model: Flat, folder: Path, seconds: float) -> Answer:
    """Whether no run breaks a claim, says ABC, which is not given the lemmas.

    Raises:
        PeerError: if it says nothing.
    """
    (folder / "claims.aig").write_bytes(aiger(only(model, "claim"), together=True))
    said, took = _run([ABC, "-c", f"read_aiger claims.aig; pdr -T {max(1, int(seconds))}"], folder, seconds + 60)
    if said is None or "UNDECIDED" in said or "imeout" in said:
        return Answer(UNKNOWN, min(took, seconds))
    if "Property proved" in said:
        return Answer(HOLDS, took)
    if "was asserted in frame" in said:
        return Answer(FAILS, took)
    raise PeerError(f"{ABC} gives no answer: {_last(said)}")


Peer = Callable[[Flat, Path, float], Answer]
PEERS: dict[str, tuple[Peer, tuple[str, ...], str]] = {
    SMTBMC: (smtbmc, (YOSYS, SMTBMC, "z3"), "lemmas and claims are inductive together"),
    ABC: (pdr, (ABC,), "no run breaks a claim"),
}


def installed() -> tuple[str, ...]:
    """The peers that are on this machine."""
    return tuple(name for name, (_, tools, _) in PEERS.items() if all(which(t, path=_path()) for t in tools))


def _path() -> str:
    """Where programs are looked for: as usual, and beside this Python, where pip puts z3."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def _run(command: Sequence[str], folder: Path, seconds: float) -> tuple[str | None, float]:
    """What a program says, and how long it took; nothing if it is not done in time, and then it is ended."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PATH": _path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=partial(_limited, bound(), int(seconds) + 1),
    )
    try:
        said, _ = process.communicate(timeout=max(0.1, seconds))
    except subprocess.TimeoutExpired:
        return None, time.perf_counter() - started
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the solvers that it started
            process.wait()
    return said, time.perf_counter() - started


def _limited(bind: Callable[[], None], seconds: int) -> None:
    """Binds a program to this process; those that it starts itself end when they have used as much time as it may."""
    bind()
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    limit = seconds if most == resource.RLIM_INFINITY else min(seconds, most)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:120] if lines else "nothing"
