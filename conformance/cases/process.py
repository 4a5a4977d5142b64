"""The program: config.md, sections Process and POSIX-platform User, and what Linux adds to them."""

from __future__ import annotations

import os

from conformance.outcome import equal, require
from conformance.registry import case, each
from conformance.stage import Stage


@case("process.cwd")
def program_starts_in_cwd(stage: Stage) -> None:
    """The working directory of the program is cwd."""
    stage.process["cwd"] = "/var"
    equal(stage.sh("pwd"), "/var\n", "working directory")


@case("process.cwd.absolute")
def relative_cwd_is_refused(stage: Stage) -> None:
    """A relative cwd is an error."""
    stage.process["cwd"] = "tmp"
    stage.refused("cwd is relative", at_start=True)


@case("process.cwd")
def cwd_is_needed(stage: Stage) -> None:
    """A process without cwd is refused."""
    del stage.process["cwd"]
    stage.refused("cwd is missing", at_start=True)


@case("process.env")
def environment_is_handed_over(stage: Stage) -> None:
    """The variables arrive unchanged, also with = in a value or none, and nothing of the runtime's environment."""
    stage.process["env"] = ["PATH=/bin", "A=b=c", "EMPTY="]
    stage.process["args"] = ["/bin/env"]
    stage.create(env=dict(os.environ) | {"CONFORMANCE_SECRET": "leak"})
    stage.start()
    seen = stage.finish().splitlines()
    require({"PATH=/bin", "A=b=c", "EMPTY="} <= set(seen), f"the environment is {seen}")
    require(not any("CONFORMANCE_SECRET" in line for line in seen), "a variable of the runtime reached the program")


@case("process.args")
def args_are_needed(stage: Stage) -> None:
    """An empty args, or none, is an error."""
    choices: list[list[str] | None] = [[], None]
    for args in choices:
        stage.process["args"] = args
        if args is None:
            del stage.process["args"]
        result = stage.create(ok=False)
        result = stage.start(ok=False) if result.ok else result
        require(not result.ok, "a process without a program was accepted")


@case("process.args")
def program_is_searched_in_path(stage: Stage) -> None:
    """A program without a slash is found through PATH of process.env."""
    (stage.rootfs / "opt/tool").symlink_to("/bin/echo")
    (stage.rootfs / "opt/echo").symlink_to("/bin/echo")
    stage.process["env"] = ["PATH=/nowhere:/opt"]
    equal(stage.run("echo", "found"), "found\n", "output of the program")


@case("process.args")
def missing_program_is_an_error(stage: Stage) -> None:
    """A program that does not exist makes create or start fail."""
    stage.process["args"] = ["no-such-program"]
    result = stage.create(ok=False)
    result = stage.start(ok=False) if result.ok else result
    require(not result.ok, "a program that does not exist was started")


@case("process.args.argv")
def args_are_argv(stage: Stage) -> None:
    """The entries are argv as they are: empty ones, spaces, newlines, a first one that differs from the file."""
    args = ["/bin/sh", "-c", "cat /proc/$$/cmdline; :", "", "a b", "line\nend", "*"]
    equal(stage.run(*args).split("\0")[:-1], args, "argv of the program")


@case("process.user.uid", "process.user.gid")
def program_runs_as_the_user(stage: Stage) -> None:
    """All user and group ids of the program are those of process.user."""
    stage.process["user"] = {"uid": 1001, "gid": 1002}
    output = stage.sh("grep -E '^(Uid|Gid)' /proc/self/status; id -G")
    equal(output.split(), ["Uid:", *["1001"] * 4, "Gid:", *["1002"] * 4, "1002"], "ids of the program")


@case("process.user.additionalGids")
def program_has_the_groups(stage: Stage) -> None:
    """The supplementary groups are additionalGids, and none of the runtime's own."""
    stage.process["user"] = {"uid": 1001, "gid": 1002, "additionalGids": [5, 6, 70000]}
    output = stage.sh("grep ^Groups /proc/self/status")
    equal(set(output.split()[1:]) - {"1002"}, {"5", "6", "70000"}, "supplementary groups")


@case("process.user.umask")
def umask_is_set(stage: Stage) -> None:
    """umask of the program is process.user.umask."""
    stage.process["user"]["umask"] = 0o027
    equal(stage.sh("umask"), "0027\n", "umask")


@case("process.user.umask")
def umask_unset(stage: Stage) -> None:
    """Without process.user.umask the mask is the caller's or the customary 0022."""
    stage.script("umask")
    stage.create(shell="umask 0022")
    stage.start()
    equal(stage.finish(), "0022\n", "umask")


@case("process.user.username", "process.commandLine")
def windows_properties_are_ignored(stage: Stage) -> None:
    """username and commandLine belong to Windows and do no harm."""
    stage.process["user"]["username"] = "somebody"
    stage.process["commandLine"] = "cmd.exe /c dir"
    equal(stage.sh("id -u"), "0\n", "user of the program")


@each({"process.noNewPrivileges@true": (True, "1"), "process.noNewPrivileges@false": (False, "0")})
def no_new_privileges(stage: Stage, value: bool, wanted: str) -> None:
    """The bit of the program is as configured."""
    stage.process["noNewPrivileges"] = value
    equal(stage.sh("grep NoNewPrivs /proc/self/status").split(), ["NoNewPrivs:", wanted], "NoNewPrivs")


@each({f"process.oomScoreAdj.set@{score}": (score,) for score in (0, 500, 1000)})
def oom_score_is_set(stage: Stage, score: int) -> None:
    """The score of the program is as configured."""
    stage.process["oomScoreAdj"] = score
    equal(stage.sh("cat /proc/self/oom_score_adj"), f"{score}\n", "oom_score_adj")


@case("process.oomScoreAdj.unset")
def oom_score_is_inherited(stage: Stage) -> None:
    """Without oomScoreAdj the program keeps the score the runtime was started with."""
    stage.script("cat /proc/self/oom_score_adj")
    stage.create(shell="echo 300 > /proc/self/oom_score_adj")
    stage.start()
    equal(stage.finish(), "300\n", "oom_score_adj")


@each({"hostname@short": ("box",), "hostname@long": ("a.long-name.example.org",)})
def hostname_is_set(stage: Stage, name: str) -> None:
    """The host name inside is as configured, outside it stays."""
    before = os.uname().nodename
    stage.config["hostname"] = name
    equal(stage.sh("hostname"), name + "\n", "host name inside")
    equal(os.uname().nodename, before, "host name outside")


@case("hostname")
def hostname_needs_its_namespace(stage: Stage) -> None:
    """hostname without a new uts namespace would rename the host and is refused."""
    before = os.uname().nodename
    stage.drop_namespace("uts")
    stage.config["hostname"] = before
    stage.refused("hostname is set in the namespace of the host")
    equal(os.uname().nodename, before, "host name outside")


@case("domainname")
def domainname_is_set(stage: Stage) -> None:
    """The NIS domain name inside is as configured, outside it stays."""
    with open("/proc/sys/kernel/domainname") as file:
        before = file.read()
    stage.config["domainname"] = "example.org"
    equal(stage.sh("cat /proc/sys/kernel/domainname"), "example.org\n", "domain name inside")
    with open("/proc/sys/kernel/domainname") as file:
        equal(file.read(), before, "domain name outside")
