"""Every place under arch/arm64/kvm that may write what the specification models, also in files that are not lifted.

The search is by tokens and errs on the side of reporting: a store to a member of a modelled name whatever the
structure, a use of its address, a register written by name, by encoding or in assembly, an element of the guest's
system registers chosen at run time. ``unknown`` are the places outside the functions that the specification knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from formal.kernel.errors import Gap, Gaps, NotUnderstoodError
from formal.kernel.recognition import indirect
from formal.kernel.recognition.callers import Bodies, Mentions
from formal.kernel.recognition.regnames import modelled, written
from formal.kernel.source.tree import KVM, KernelTree, Sources, sources
from formal.kernel.text import whole
from formal.kernel.text.flags import covered
from formal.kernel.text.tokens import Token, arguments_of, chain_end, chain_start, closing, ends_operand, tokens
from formal.kernel.text.uses import ASSIGN, storing, use

MEMBERS = frozenset((
    "mdcr_el2", "mdcr_el2_host", "guest_debug", "debug_ptr", "external_debug_state", "vcpu_debug_state",
    "guest_debug_preserved", "host_debug_state", "debug_owner", "external_mdscr_el1", "pstate", "nr_event_counters",
    "nr_pmu_counters", "debug_brps", "debug_wrps",
))  # fmt: skip
BANKS = frozenset(("dbg_bcr", "dbg_bvr", "dbg_wcr", "dbg_wvr"))
GUEST_REGISTERS = frozenset(("MDSCR_EL1", "OSLSR_EL1", "MDCR_EL2", "HCR_EL2"))
FLAGS = frozenset((
    "DEBUG_DIRTY", "DBG_SS_ACTIVE_PENDING", "KVM_ARM64_DEBUG_DIRTY", "HOST_SS_ACTIVE_PENDING",
    "GUEST_SS_ACTIVE_PENDING", "PMUSERENR_ON_CPU", "INCREMENT_PC", "KVM_ARM64_INCREMENT_PC",
))  # fmt: skip
_PENDING = "KVM_ARM64_PENDING_EXCEPTION"
_FLAG_WRITERS = {"vcpu_set_flag": 1, "vcpu_clear_flag": 1, "vcpu_test_and_clear_flag": 1, "vcpu_copy_flag": 2}
_FLAG_WORDS = frozenset(("flags", "iflags", "sflags", "cflags", "debug_flags"))  # the last before v4.17
_REGISTER_WRITERS = {  # and which argument is the register
    **dict.fromkeys((f"write_sysreg{how}" for how in ("", "_s", "_el0", "_el1", "_el2", "_hcr")), 1),
    **dict.fromkeys(("sysreg_clear_set", "sysreg_clear_set_s", "sysreg_clear_set_el1", "sysreg_clear_set_hcr"), 0),
}
_ELEMENTS = frozenset(("__vcpu_sys_reg", "ctxt_sys_reg", "__ctxt_sys_reg", "___ctxt_sys_reg", "vcpu_sys_reg"))
_ELEMENT_WRITERS = {
    "vcpu_write_sys_reg": 2,
    "__vcpu_assign_sys_reg": 1,
    "__vcpu_rmw_sys_reg": 1,
}  # which is the register
_WHOLE = frozenset(("arch", "ctxt", "host_ctxt", "regs", "user_pt_regs"))  # structures with modelled members
_FILLERS = frozenset(
    "memset memcpy memmove __memcpy __memset copy_from_user __copy_from_user memzero_explicit memset_startat "
    "memset_after copy_struct_from_user strscpy".split()
)
_TELLING = (  # the words at which ``_at`` looks
    indirect.TELLING | GUEST_REGISTERS | MEMBERS | BANKS | _WHOLE | _FLAG_WORDS | _REGISTER_WRITERS.keys() | _FILLERS
    | _ELEMENTS | _ELEMENT_WRITERS.keys()
    | _FLAG_WRITERS.keys() | {"sys_regs", "asm", "__asm__", "offsetof", "host_data_ptr", "vcpu_cpsr", "vcpu_gp_regs"}
)  # fmt: skip
_ASM, HOST = "arch/arm64/include/asm", ("arch/arm64/kernel", "arch/arm64/mm")
_ELSEWHERE = ("virt/kvm", _ASM, "include/kvm", "include/linux/kvm_host.h", *HOST)
_CONCERNS = re.compile(
    "|".join((*sorted(MEMBERS - {"pstate"}), "mdscr_el1", "pmuserenr", "oslar", "osdlr", "dbg[bw]")), re.I
)
_OF_TASKS = frozenset(
    ("pstate", "pc", "regs", "arch", "childregs", "newregs", "hw.elr_el2")
)  # struct pt_regs has these


@dataclass(frozen=True)
class Store:
    """A place that may write something modelled."""

    file: str
    line: int
    function: str
    lvalue: str
    how: str  # store, address, register, assembly


# by file: its text and the macros that were known, the places in it, its functions
Found = dict[str, tuple[tuple[str, str], list[Store], Bodies]]
Stores = Mapping[str, frozenset[int]]  # macros that write arguments: which
Flags = Mapping[str, frozenset[str]]  # what of FLAGS each flag of a vCPU is, or shares a bit with


def scan(tree: Sources, mentions: Mentions | None = None, kept: Found | None = None) -> list[Store]:
    """Every such place in KVM, in the headers that it includes, and in the host's own code for arm64.

    Args:
        mentions: takes in the same files, but for the host's own.
        kept: what an earlier search for the same ``mentions`` found; files with other texts are searched again, and
            those in which something is not understood.

    Raises:
        NotUnderstoodError: at a mention that is not known.
    """
    found: list[Store] = []
    kept = {} if kept is None else kept
    gaps = mentions.gaps if mentions else Gaps()
    paths = (path for folder in (KVM, *_ELSEWHERE) for path in sources(tree.path / folder, (".c", ".h", ".S")))
    built = tree.build.host if isinstance(tree, KernelTree) else ()  # before v4.13 some of it lies in arch/arm/kvm
    texts = {name: tree.read(name) for name in dict.fromkeys((*(tree.relative(str(path)) for path in paths), *built))}
    stores = storing(text for name, text in texts.items() if name.endswith((".c", ".h")) and not name.startswith(HOST))
    flags = covered(texts.get(f"{_ASM}/kvm_host.h", ""), FLAGS)
    macros = repr([sorted((name, sorted(which)) for name, which in known.items()) for known in (stores, flags)])
    for name, text in texts.items():
        known = kept.pop(name, None)
        before = len(gaps.found)
        if known is None or known[0] != (text, macros):
            known = (text, macros), *_searched(name, text, mentions, stores, flags)
        if len(gaps.found) == before:
            kept[name] = known
        found += known[1]
        if mentions:
            mentions.merge(known[2])
    return found


def _searched(
    name: str, text: str, mentions: Mentions | None, macros: Stores, flags: Flags
) -> tuple[list[Store], Bodies]:
    """What a file writes, and its functions; of the host's own code, which has no vCPUs, what concerns KVM."""
    if name.endswith(".S"):
        return scan_assembly(name, text), {}
    if name.startswith(HOST) and not _CONCERNS.search(text):
        return [], {}
    assembly = scan_assembly(name, "\n".join(_assembler(text))) if name.endswith(".h") else []
    words = tokens(text)
    bodies = mentions.of(name, words) if mentions and not name.startswith(HOST) else {}
    stores = scan_tokens(name, words, macros, flags)
    if name.startswith((*HOST, _ASM)) and "kvm" not in name:
        stores = [store for store in stores if store.lvalue not in _OF_TASKS]
    return assembly + stores, bodies


def _assembler(text: str) -> Iterator[str]:
    """The lines of a header; those that are not assembler's are blank."""
    for line in text.split("\n"):
        yield line if re.match(r"\s*(?:\d+:)?\s*msr(_s)?\s|\s*\.macro\s", line) else ""


def scan_text(file: str, text: str) -> list[Store]:
    """The places in the text of one C file."""
    return scan_tokens(file, tokens(text), storing((text,)), covered(text, FLAGS))


def scan_tokens(file: str, words: Sequence[Token], stores: Stores, flags: Flags) -> list[Store]:
    """The places in one C file."""
    found: dict[Store, None] = {}
    for i, word in enumerate(words):
        if word.text in _TELLING or word.text in stores:
            for lvalue, how in _at(words, i, stores, flags):
                found[Store(file, word.line, word.function, lvalue, how)] = None
        elif word.function.startswith("macro "):
            for lvalue, how in _in_macro(words, i):
                found[Store(file, word.line, word.function, lvalue, how)] = None
    for word, lvalue, how in whole.stores(words, MEMBERS - {"pstate"} | BANKS, _FILLERS, ASSIGN):
        found[Store(file, word.line, word.function, lvalue, how)] = None
    return list(found)


def _at(words: Sequence[Token], i: int, stores: Stores, flags: Flags) -> Iterator[tuple[str, str]]:
    text = words[i].text
    before = words[i - 1].text if i else ""
    following = words[i + 1].text if i + 1 < len(words) else ""
    yield from indirect.at(words, i, MEMBERS | BANKS | _FLAG_WORDS - {"flags"}, GUEST_REGISTERS, stores)
    if text in MEMBERS | BANKS | GUEST_REGISTERS and indirect.renamed(words, i):
        yield text, "renamed"
    if text in MEMBERS | BANKS and before in (".", "->"):
        yield from _member(words, i, stores)
    elif text in _WHOLE | {"sys_regs"} and before in (".", "->") and following != "(":
        yield from _container(words, i, stores)
    elif text in ("asm", "__asm__"):
        yield from (("hw." + name, "assembly") for name in _assembly(words, i))
    elif following == "(":
        arguments = arguments_of(words, i + 1)
        if text in _REGISTER_WRITERS and len(arguments) > _REGISTER_WRITERS[text]:
            spelled = _spelled(arguments[_REGISTER_WRITERS[text]])
            short = text.removeprefix("write_sysreg_") if text.endswith(("_el0", "_el1", "_el2")) else ""
            if name := modelled(spelled) or (modelled(f"{spelled}_{short}") if short else None):
                yield f"hw.{name}", "register"
        elif text in _FILLERS and words[i].function and arguments[0]:
            yield from _filled(arguments[0])
        elif text in ("offsetof", "host_data_ptr") and words[i].function:
            yield from _placed(words, i, arguments[-1], stores)
        elif text in _ELEMENTS:
            yield from _element(words, i, arguments[-1], stores)
        elif text in _ELEMENT_WRITERS and len(arguments) > _ELEMENT_WRITERS[text]:
            register = _spelled(arguments[_ELEMENT_WRITERS[text]])
            if words[i].function and (register in GUEST_REGISTERS or not _plain(register)):
                yield _register(register), "store"
        elif text in _FLAG_WRITERS and len(arguments) > _FLAG_WRITERS[text] and words[i].function:
            yield from ((lvalue, "store") for lvalue in _flag(_spelled(arguments[_FLAG_WRITERS[text]]), flags))
        elif text in ("vcpu_cpsr", "vcpu_gp_regs"):
            yield from _accessor(words, i, stores)
    elif (
        text in _FLAG_WORDS
        and before in (".", "->")
        and (text != "flags" or (before == "." and words[i - 2].text == "arch" and words[i - 4].text != "kvm"))
    ):
        yield from _flags(words, i, stores, flags)


def _flags(words: Sequence[Token], i: int, stores: Stores, flags: Flags) -> Iterator[tuple[str, str]]:
    """A word of flags written; ``|=`` and ``&=`` only if they name a modelled flag, or none by name."""
    following = words[i + 1].text if i + 1 < len(words) else ""
    end = next((j for j in range(i, len(words)) if words[j].text == ";"), i)
    value = [w.text for w in words[i + 2 : end] if w.text.isidentifier() and w.text not in ("BIT", "GENMASK")]
    if following == "|=" and _PENDING in value:  # the bits of an exception's kind lie over the PC's increment
        value = [name for name in value if "EXCEPT" not in name] or [_PENDING]
    others = following in ("|=", "&=") and value and not any(_flag(name, flags) for name in value)
    if (how := use(words, chain_start(words, i), i, stores)) and not others:
        yield f"arch.{words[i].text.removeprefix('debug_')}", how


def _flag(name: str, flags: Flags) -> frozenset[str]:
    """The modelled flags that a name means, or any of a word where it is defined in no form that is known."""
    return flags.get(name, frozenset((name,)) & FLAGS or frozenset(("arch.iflags",)))


def _member(words: Sequence[Token], i: int, stores: Stores) -> Iterator[tuple[str, str]]:
    name = words[i].text
    end, start = chain_end(words, i), chain_start(words, i)
    if words[start].text == "__entry":
        return  # the record of a tracepoint
    if not words[i].function and words[start].text in ("{", ","):
        return  # what an initialiser of a variable of the file gives
    if how := use(words, start, end, stores):
        yield name, how
    elif name in BANKS and words[i + 1].text != "[":
        yield name, "address"


def _container(words: Sequence[Token], i: int, stores: Stores) -> Iterator[tuple[str, str]]:
    """A structure with modelled members assigned as a whole; an element of the guest's System registers."""
    end, start = chain_end(words, i), chain_start(words, i)
    following = words[end + 1].text if end + 1 < len(words) else ""
    if words[i].text == "sys_regs" and end == i:
        yield "sys_regs[*]", "address"
    elif words[i].text == "sys_regs":
        register, how = _spelled(words[i + 2 : end]), use(words, start, end, stores)
        own = how == "address" and words[i].function.removeprefix("macro ") in _ELEMENTS  # each use is looked at
        if how and not own and (register in GUEST_REGISTERS or not _plain(register)):
            yield _register(register), how
    elif end == i and words[i].function and use(words, start, end, stores) == "store":
        pointer = following == "=" and words[i + 2].text == "&"  # mmu->arch = &kvm->arch
        yield from [] if pointer else [(words[i].text, "store")]


def _filled(target: Sequence[Token]) -> Iterator[tuple[str, str]]:
    """The destination of a copy: a structure with modelled members, or a pointer that is named like one."""
    last = target[-1].text
    if any(word.text == "kvm_host_data" for word in target):
        yield "kvm_host_data", "store"
    if last in _WHOLE | {"sys_regs"} or (len(target) == 1 and re.fullmatch(r"\w*(vcpu|ctxt|regs)", last)):
        yield last, "store"


def _placed(words: Sequence[Token], i: int, member: Sequence[Token], stores: Stores) -> Iterator[tuple[str, str]]:
    """The place of a modelled member: its offset, or a pointer to it that is written through or kept."""
    named = [word.text for word in member if word.text in MEMBERS | BANKS]
    dereferenced = i > 0 and words[i - 1].text == "*" and words[i].text != "offsetof"
    how = use(words, i, closing(words, i + 1), stores) if dereferenced else "address"
    if named and how:
        yield named[-1], how


def _spelled(argument: Sequence[Token]) -> str:
    return "".join(word.text for word in argument)


def _plain(register: str) -> bool:
    """Whether a System register is named by its enumerator and by nothing else."""
    return register.isidentifier() and register.isupper()


def _register(spelled: str) -> str:
    return f"sys_regs[{spelled if spelled in GUEST_REGISTERS else '*'}]"


def _element(words: Sequence[Token], i: int, index: Sequence[Token], stores: Stores) -> Iterator[tuple[str, str]]:
    register = _spelled(index)
    if register not in GUEST_REGISTERS and _plain(register):
        return
    if how := use(words, i, closing(words, i + 1), stores):
        yield _register(register), how


def _accessor(words: Sequence[Token], i: int, stores: Stores) -> Iterator[tuple[str, str]]:
    """``*vcpu_cpsr(v)`` written, or the pointer kept; ``vcpu_gp_regs(v)`` passed on as a whole."""
    end = closing(words, i + 1)
    following = words[end + 1].text if end + 1 < len(words) else ""
    dereferenced = i > 0 and words[i - 1].text == "*" and not ends_operand(words, i - 2)
    if following == "{":
        return  # its own definition
    if words[i].text == "vcpu_cpsr":
        if how := use(words, i, end, stores) if dereferenced else "address":
            yield "pstate", how
    elif following != "->":
        yield "pstate", "address"


def _in_macro(words: Sequence[Token], i: int) -> Iterator[tuple[str, str]]:
    """A literal that is put into assembly where the macro is used; a register under another name."""
    word, alone = (
        words[i],
        i + 1 == len(words) or (words[i + 1].function, words[i + 1].text) != (words[i].function, "#"),
    )
    if word.text[:1] == '"' and words[i - 1].text[:1] != '"':
        start = next(j for j in range(i, -1, -1) if words[j].text == "define")
        end = next((j for j in range(i, len(words)) if words[j].function != word.function), len(words))
        if not {"asm", "__asm__"} & {w.text for w in words[start:i]}:
            yield from (("hw." + name, "assembly") for name in written(" ".join(w.text for w in words[i:end])))
    elif words[i - 2].text == "define" and alone and modelled(word.text) and not modelled(words[i - 1].text):
        yield f"hw.{word.text}", "renamed"


def _assembly(words: Sequence[Token], i: int) -> Iterator[str]:
    start = next((j for j in range(i, min(i + 4, len(words))) if words[j].text == "("), i)
    yield from written(" ".join(word.text for word in words[start : closing(words, start) + 1]))


def scan_assembly(file: str, text: str) -> list[Store]:
    """The places in one assembler file: ``msr`` to a modelled register."""
    found: list[Store] = []
    function = ""
    for number, line in enumerate(text.split("\n"), 1):
        label = re.match(r"\s*(?:(?:SYM_\w+START\w*|ENTRY)\(|\.macro\s+)?([\w$.]+)(?:\)|:|,|\s|$)", line)
        if label and re.match(r"\s*(SYM_\w+START|ENTRY\(|\.macro)|^\w+:", line):
            function = label.group(1)
        found += [Store(file, number, function, f"hw.{name}", "assembly") for name in written(line)]
    return found


def helpers(text: str) -> frozenset[str]:
    """The static functions of a C file that are only ever called, and only by functions of the file."""
    words = tokens(text)
    named: dict[str, list[int]] = {word.function: [] for word in words if word.function.isidentifier()}
    for i, word in enumerate(words):
        if word.text in named:
            named[word.text].append(i)
    return frozenset(name for name, at in named.items() if all(_called_or_static(words, i) for i in at))


def _called_or_static(words: Sequence[Token], i: int) -> bool:
    """A call inside a function; or, outside, part of a static declaration or definition."""
    if words[i + 1 : i + 2] and words[i + 1].text != "(":
        return False
    if words[i].function:
        return not words[i].function.startswith("macro ")
    start = next((j for j in range(i, -1, -1) if words[j].function or words[j].text in (";", "}")), -1)
    return any(word.text == "static" for word in words[start + 1 : i])


def check(
    tree: Sources,
    knows: Callable[[str, str, str], bool],
    whole: Collection[str] = (),
    kept: Found | None = None,
    gaps: Gaps | None = None,
    hinges: Callable[[str, str, str], bool] = lambda file, function, lvalue: False,
) -> list[Store]:
    """All places, if each is known, and the functions that they are in are called by known functions only.

    Args:
        knows: whether it is known that a function (of a file) may write something (``writers.knows``).
        whole: files whose every function is lifted: what their helpers write is seen in the functions that call them.
        kept: what an earlier search with the same ``whole`` found; files with other texts are searched again.
        hinges: whether that is known only where the function is compared (``Gap.unless``); noted in ``gaps``.

    Raises:
        NotUnderstoodError: at the first that is not, if that is not noted in ``gaps``.
    """
    gaps = gaps or Gaps()
    mentions = Mentions(whole, gaps=gaps)
    stores = scan(tree, mentions, kept)
    mentions.check()
    private = {(file, name) for file in whole for name in helpers(tree.read(file))}
    for store in stores:
        where = store.file, store.function, store.lvalue
        local = store.file in whole and store.file.endswith(".c") and store.function.startswith("macro ")
        if local or (store.file, store.function) in private or ((known := knows(*where)) and not hinges(*where)):
            continue
        place = f"in {store.function}()" if store.function else "outside a function"
        if known:
            reason = f"{store.lvalue} may be written ({store.how}) {place}, which is not compared"
            of, written = frozenset((store.function,)), frozenset((store.lvalue,))
            gaps.found += [Gap(store.file, store.line, reason, of, written, unless=(store.function, store.file))]
            continue
        reason = f"{store.lvalue} may be written ({store.how}) {place}, which the specification does not know"
        with gaps.at(store.function, writes=store.lvalue):
            raise NotUnderstoodError(store.file, store.line, reason)
    return stores
