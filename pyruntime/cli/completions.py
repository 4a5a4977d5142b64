"""Completion scripts for shells, made from the tables of the verbs.

Each script is self-contained: pressing Tab starts the program only where the id of a container is wanted.
"""

from __future__ import annotations

from pyruntime.cli.flags import BOOL, Flag, Verb
from pyruntime.cli.help import all_verbs, visible
from pyruntime.cli.main import GLOBAL_FLAGS, PROGRAM

SHELLS = ("bash", "fish", "zsh")

FILES = frozenset({"FILE", "PATH"})
DIRECTORIES = frozenset({"DIR"})


def script(shell: str) -> str:
    """The completion script for `shell`, one of SHELLS."""
    return {"bash": _bash, "fish": _fish, "zsh": _zsh}[shell]()


def takes_id(verb: Verb) -> bool:
    """Whether the first argument is the id of a container that exists."""
    return verb.arguments.startswith("<container-id>") and verb.name not in ("create", "run", "restore")


def _spellings(flag: Flag) -> list[str]:
    return [f"--{flag.name}", f"-{flag.short}"] if flag.short else [f"--{flag.name}"]


def _with_value(flags: tuple[Flag, ...]) -> list[Flag]:
    return [flag for flag in flags if flag.kind is not BOOL and not flag.hidden]


def _bash_words(flags: tuple[Flag, ...]) -> str:
    return " ".join(name for flag in visible(flags) for name in _spellings(flag))


def _bash_values(flags: tuple[Flag, ...], indent: str) -> list[str]:
    """The branches of a `case` on the word before the cursor that say what its value may be."""
    lines = []
    for flag in _with_value(flags):
        if flag.choices:
            action = f'COMPREPLY=($(compgen -W "{" ".join(flag.choices)}" -- "$current"))'
        elif flag.value in DIRECTORIES:
            action = 'COMPREPLY=($(compgen -d -- "$current"))'
        elif flag.value in FILES:
            action = 'COMPREPLY=($(compgen -f -- "$current"))'
        else:
            action = "COMPREPLY=()"
        lines.append(f"{indent}{'|'.join(_spellings(flag))}) {action}; return ;;")
    return lines


def _bash() -> str:
    verbs = all_verbs()
    skip = "|".join(name for flag in _with_value(GLOBAL_FLAGS) for name in _spellings(flag))
    lines = [
        f"# bash completion for {PROGRAM}: put it into /usr/share/bash-completion/completions/{PROGRAM}",
        "",
        f"_{PROGRAM}_containers() {{",
        f'    {PROGRAM} "${{globals[@]}}" list --quiet 2>/dev/null',
        "}",
        "",
        f"_{PROGRAM}() {{",
        '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
        "    local verb= index=1 word globals=()",
        "    while [ $index -lt $COMP_CWORD ]; do",
        '        word="${COMP_WORDS[index]}"',
        '        case "$word" in',
        f"            {skip})",
        '                globals+=("$word" "${COMP_WORDS[index+1]}")',
        "                index=$((index + 1)) ;;",
        '            -*) globals+=("$word") ;;',
        '            *) verb="$word"; break ;;',
        "        esac",
        "        index=$((index + 1))",
        "    done",
        '    case "$verb" in',
        '        "")',
        '            case "$previous" in',
        *_bash_values(GLOBAL_FLAGS, " " * 16),
        "            esac",
        f'            COMPREPLY=($(compgen -W "{" ".join(verb.name for verb in verbs)} help'
        f' {_bash_words(GLOBAL_FLAGS)}" -- "$current"))',
        "            return ;;",
    ]
    for verb in verbs:
        lines += [
            f"        {verb.name})",
            '            case "$previous" in',
            *_bash_values(verb.flags, " " * 16),
            "            esac",
        ]
        words = _bash_words(verb.flags)
        if takes_id(verb):
            lines += [
                '            case "$current" in',
                f'                -*) COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;',
                f'                *) COMPREPLY=($(compgen -W "$(_{PROGRAM}_containers)" -- "$current")) ;;',
                "            esac",
            ]
        else:
            extra = " ".join(SHELLS) + " " if verb.name == "completion" else ""
            lines.append(f'            COMPREPLY=($(compgen -W "{extra}{words}" -- "$current"))')
        lines.append("            return ;;")
    lines += ["    esac", "}", "", f"complete -o default -F _{PROGRAM} {PROGRAM}", ""]
    return "\n".join(lines)


def _zsh_quoted(text: str) -> str:
    """`text` inside single quotes, with what _arguments gives a meaning to escaped."""
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, "\\" + special)
    return text.replace("'", "'\\''")


def _zsh_flags(flags: tuple[Flag, ...], indent: str) -> list[str]:
    lines = []
    for flag in visible(flags):
        value = ""
        if flag.kind is not BOOL:
            name = _zsh_quoted((flag.value or flag.kind).lower())
            if flag.choices:
                value = f":{name}:({' '.join(flag.choices)})"
            elif flag.value in DIRECTORIES:
                value = f":{name}:_files -/"
            elif flag.value in FILES:
                value = f":{name}:_files"
            else:
                value = f":{name}: "
        names = _spellings(flag)
        if flag.repeatable:
            lines += [f"{indent}'*{name}[{_zsh_quoted(flag.help)}]{value}' \\" for name in names]
        elif len(names) > 1:
            group = "{" + ",".join(names) + "}"
            lines.append(f"{indent}'({' '.join(names)})'{group}'[{_zsh_quoted(flag.help)}]{value}' \\")
        else:
            lines.append(f"{indent}'{names[0]}[{_zsh_quoted(flag.help)}]{value}' \\")
    return lines


def _zsh() -> str:
    verbs = all_verbs()
    lines = [
        f"#compdef {PROGRAM}",
        f"# zsh completion for {PROGRAM}: put it into a directory of $fpath under the name _{PROGRAM}",
        "",
        f"_{PROGRAM}_containers() {{",
        "    local -a ids",
        f'    ids=(${{(f)"$({PROGRAM} ${{root:+--root}} $root list --quiet 2>/dev/null)"}})',
        "    _describe -t containers 'container' ids",
        "}",
        "",
        f"_{PROGRAM}_verbs() {{",
        "    local -a verbs",
        "    verbs=(",
        *(f"        '{verb.name}:{_zsh_quoted(verb.summary)}'" for verb in verbs),
        "        'help:show the help of a command'",
        "    )",
        "    _describe -t commands 'command' verbs",
        "}",
        "",
        f"_{PROGRAM}() {{",
        "    local curcontext=$curcontext state line root",
        "    typeset -A opt_args",
        "    _arguments -C \\",
        *_zsh_flags(GLOBAL_FLAGS, " " * 8),
        f"        '1:command:_{PROGRAM}_verbs' \\",
        "        '*::argument:->arguments'",
        '    [[ "$state" == arguments ]] || return',
        '    root="${opt_args[--root]}"',
        '    case "$line[1]" in',
    ]
    for verb in verbs:
        lines += [f"        {verb.name})", "            _arguments \\", *_zsh_flags(verb.flags, " " * 16)]
        if takes_id(verb):
            lines.append(f"                '1:container:_{PROGRAM}_containers' \\")
        elif verb.name == "completion":
            lines.append(f"                '1:shell:({' '.join(SHELLS)})' \\")
        lines += ["                '*:argument:_default' ;;"]
    lines += ["        help)", f"            _{PROGRAM}_verbs ;;", "    esac", "}", "", f'_{PROGRAM} "$@"', ""]
    return "\n".join(lines)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_flag(flag: Flag, condition: str) -> str:
    parts = [f"complete -c {PROGRAM} -n {_fish_quoted(condition)} -l {flag.name}"]
    if flag.short:
        parts.append(f"-s {flag.short}")
    if flag.kind is not BOOL:
        if flag.choices:
            parts.append(f"-x -a {_fish_quoted(' '.join(flag.choices))}")
        elif flag.value in DIRECTORIES:
            parts.append("-x -a '(__fish_complete_directories)'")
        else:
            parts.append("-r -F" if flag.value in FILES else "-x")
    parts.append(f"-d {_fish_quoted(flag.help)}")
    return " ".join(parts)


def _fish() -> str:
    verbs = all_verbs()
    skip = " ".join(name for flag in _with_value(GLOBAL_FLAGS) for name in _spellings(flag))
    lines = [
        f"# fish completion for {PROGRAM}: put it into /usr/share/fish/vendor_completions.d/{PROGRAM}.fish",
        "",
        "# The verb of the command line, or with the argument `globals` the global options before it.",
        f"function __{PROGRAM}_verb",
        "    set -l words (commandline -opc)",
        "    set -l globals",
        "    set -e words[1]",
        "    while set -q words[1]",
        "        switch $words[1]",
        f"            case {skip}",
        "                set -a globals $words[1] $words[2]",
        "                set -e words[1]",
        "            case '-*'",
        "                set -a globals $words[1]",
        "            case '*'",
        "                break",
        "        end",
        "        set -e words[1]",
        "    end",
        '    if test "$argv[1]" = globals',
        "        printf '%s\\n' $globals",
        "    else if set -q words[1]",
        "        echo $words[1]",
        "    end",
        "end",
        "",
        f"function __{PROGRAM}_is",
        f"    set -l verb (__{PROGRAM}_verb)",
        '    test "$verb" = "$argv[1]"',
        "end",
        "",
        f"function __{PROGRAM}_containers",
        f"    {PROGRAM} (__{PROGRAM}_verb globals) list --quiet 2>/dev/null",
        "end",
        "",
        f"complete -c {PROGRAM} -f",
    ]
    top = f"__{PROGRAM}_is ''"
    lines += [_fish_flag(flag, top) for flag in visible(GLOBAL_FLAGS)]
    for verb in verbs:
        lines.append(f"complete -c {PROGRAM} -n {_fish_quoted(top)} -a {verb.name} -d {_fish_quoted(verb.summary)}")
    for verb in verbs:
        condition = f"__{PROGRAM}_is {verb.name}"
        lines += [_fish_flag(flag, condition) for flag in visible(verb.flags)]
        start = f"complete -c {PROGRAM} -n {_fish_quoted(condition)}"
        if takes_id(verb):
            lines.append(f"{start} -a '(__{PROGRAM}_containers)'")
        elif verb.name == "completion":
            lines.append(f"{start} -a '{' '.join(SHELLS)}'")
    return "\n".join(lines) + "\n"
