"""The faults: which area of the requirements each belongs to, what is broken, and the case that must notice."""

from __future__ import annotations

from typing import NamedTuple

from conformance.faults import behaviour as do
from conformance.faults import edits as edit


class Fault(NamedTuple):
    """One way to be wrong: `edit` changes the configuration, or `behaviour` replaces the runtime; `case` must fail."""

    area: str
    case: str
    edit: edit.Edit | None = None
    behaviour: do.Behaviour | None = None


FAULTS: dict[str, Fault] = {
    "overlooks-annotations": Fault(
        "annotations", "metadata::image_annotation_passes_through[annotations.image.os]", edit.without("annotations")
    ),
    "takes-config-yaml": Fault("bundle", "bundle::config_json_is_needed", behaviour=do.takes_another_file),
    "uses-another-cgroup": Fault("cgroup", "cgroup::absolute_path_counts_from_the_mount", edit.other_cgroup),
    "hands-over-v1-cgroups": Fault(
        "cgroup.ownership", "cgroup::v1_is_never_handed_over", behaviour=do.hands_over_cgroups
    ),
    "ignores-the-version": Fault(
        "config", "metadata::version_must_be_semver[ociVersion.semver@0]", edit.with_value("1.0.2", "ociVersion")
    ),
    "makes-no-dev-fd": Fault(
        "dev", "descriptors::dev_links_are_there[dev.symlink.fd]", edit.before_program("rm -f /dev/fd")
    ),
    "makes-no-devices": Fault("devices", "devices::device_is_made[devices.type@c]", edit.without("linux", "devices")),
    "links-ptmx-elsewhere": Fault(
        "devices", "devices::ptmx_is_the_containers_own", edit.before_program("ln -sf /dev/null /dev/ptmx")
    ),
    "leaves-litter": Fault(
        "errors", "lifecycle::failed_create_leaves_nothing[errors.rollback@mount]", behaviour=do.leaves_litter
    ),
    "refuses-unknown-properties": Fault(
        "extensibility", "metadata::unknown_properties_are_ignored", behaviour=do.refuses("conformanceUnknown")
    ),
    "leaks-a-descriptor": Fault("fds", "descriptors::only_stdio_is_open", behaviour=do.leaks_a_descriptor),
    "announces-old-versions": Fault(
        "features", "features::versions_are_in_order", behaviour=do.changed("features", "ociVersionMax", "0.1.0")
    ),
    "mounts-no-shm": Fault(
        "fs", "mounts::default_filesystems_work[fs.default.dev-shm]", edit.without_mount("/dev/shm")
    ),
    "runs-hooks-backwards": Fault("hooks", "hooks::lists_run_in_their_order", edit.reverse_hooks),
    "runs-no-hooks": Fault("hooks", "hooks::list_works_alone[hooks.createRuntime]", edit.without("hooks")),
    "runs-no-poststop-hooks": Fault(
        "hooks", "hooks::list_works_alone[hooks.poststop]", edit.without("hooks", "poststop")
    ),
    "reads-ascii": Fault("json", "bundle::utf8_arrives_unchanged", behaviour=do.mangles_text),
    "starts-during-create": Fault("lifecycle", "lifecycle::program_waits_for_start", behaviour=do.starts_at_once),
    "overlooks-mount-labels": Fault("lsm", "filesystem::mount_label_is_applied", edit.without("linux", "mountLabel")),
    "overlooks-memory-policy": Fault(
        "mempolicy",
        "filesystem::memory_policy_is_set[memoryPolicy.mode@MPOL_BIND]",
        edit.without("linux", "memoryPolicy"),
    ),
    "overlooks-noexec": Fault("mount-option", "mount_options::programs_obey", edit.without_option("noexec")),
    "overlooks-rro": Fault(
        "mount-option", "mount_recursive::word_reaches_the_submount[mount-option.rro]", edit.without_option("rro")
    ),
    "mounts-backwards": Fault("mounts", "mounts::mounts_are_made_in_order", edit.reverse_mounts),
    "overlooks-idmap": Fault("mounts.idmap", "idmap::files_change_their_owner", edit.ignore_idmap),
    "overlooks-net-devices": Fault("netdevices", "netdevices::interface_is_moved", edit.without("linux", "netDevices")),
    "makes-no-ipc-namespace": Fault("ns", "namespaces::new_namespace_is_made[ns.ipc]", edit.without_namespace("ipc")),
    "makes-no-pid-namespace": Fault("ns", "namespaces::program_is_process_one", edit.without_namespace("pid")),
    "has-no-kill": Fault("ops", "lifecycle::one_caller_does_it_all", behaviour=do.unsupported("kill")),
    "accepts-every-id": Fault(
        "ops.create",
        "operations::invalid_id_is_refused[ops.create.id-invalid@1]",
        behaviour=do.always_succeeds("create"),
    ),
    "deletes-the-running": Fault(
        "ops.delete",
        "operations::delete_needs_a_stopped_container[ops.delete.not-stopped.error@running]",
        behaviour=do.extra("delete", "--force"),
    ),
    "deletes-nothing": Fault("ops.delete", "operations::delete_removes_the_container", behaviour=do.forgets_to_delete),
    "always-kills": Fault(
        "ops.kill", "operations::signal_arrives[ops.kill.sends@TERM]", behaviour=do.sends_another_signal
    ),
    "starts-twice": Fault(
        "ops.start",
        "operations::start_needs_a_created_container[ops.start.not-created.error@running]",
        behaviour=do.always_succeeds("start"),
    ),
    "knows-everybody": Fault("ops.state", "operations::state_of_the_unknown", behaviour=do.knows_everybody),
    "masks-nothing": Fault("paths", "filesystem::masked_paths_are_empty", edit.without("linux", "maskedPaths")),
    "protects-nothing": Fault(
        "paths", "filesystem::readonly_paths_cannot_be_written", edit.without("linux", "readonlyPaths")
    ),
    "overlooks-personality": Fault(
        "personality",
        "filesystem::personality_is_set[personality.domain@LINUX32]",
        edit.without("linux", "personality"),
    ),
    "refuses-windows": Fault(
        "platform", "metadata::other_platforms_are_ignored[platform.windows]", behaviour=do.refuses("layerFolders")
    ),
    "starts-in-the-root": Fault("process", "process::program_starts_in_cwd", edit.with_value("/", "process", "cwd")),
    "overlooks-no-new-privileges": Fault(
        "process",
        "process::no_new_privileges[process.noNewPrivileges@true]",
        edit.without("process", "noNewPrivileges"),
    ),
    "overlooks-affinity": Fault(
        "process.affinity", "limits::final_affinity_holds_for_exec", edit.without("process", "execCPUAffinity")
    ),
    "keeps-a-capability": Fault(
        "process.caps", "capabilities::sets_of_root[process.capabilities.bounding@root]", edit.more_capabilities
    ),
    "drops-the-ambient-set": Fault(
        "process.caps",
        "capabilities::set_is_exactly_as_configured[process.capabilities.ambient]",
        edit.without("process", "capabilities", "ambient"),
    ),
    "overlooks-io-priority": Fault(
        "process.ioprio",
        "limits::io_priority_is_set[process.ioPriority.class@IOPRIO_CLASS_BE]",
        edit.without("process", "ioPriority"),
    ),
    "overlooks-apparmor": Fault(
        "process.lsm", "filesystem::apparmor_profile_is_applied", edit.without("process", "apparmorProfile")
    ),
    "halves-limits": Fault(
        "process.rlimits", "limits::limit_is_set[process.rlimits.type@RLIMIT_NOFILE]", edit.halve_limits
    ),
    "overlooks-the-scheduler": Fault(
        "process.scheduler",
        "limits::policy_is_set[process.scheduler.policy@SCHED_BATCH]",
        edit.without("process", "scheduler"),
    ),
    "overlooks-groups": Fault(
        "process.user", "process::program_has_the_groups", edit.without("process", "user", "additionalGids")
    ),
    "overlooks-propagation": Fault(
        "propagation",
        "filesystem::root_has_the_propagation[rootfsPropagation.unbindable]",
        edit.without("linux", "rootfsPropagation"),
    ),
    "overlooks-rdt": Fault("rdt", "block_and_more::resctrl_is_needed", edit.without("linux", "intelRdt")),
    "overlooks-throttles": Fault(
        "res.blockio",
        "block_and_more::throttle_is_written[res.blockIO.throttleReadBpsDevice]",
        edit.without("linux", "resources", "blockIO"),
    ),
    "overlooks-cpu-limits": Fault(
        "res.cpu", "resources::cpu_setting_is_written[res.cpu.quota]", edit.without("linux", "resources", "cpu")
    ),
    "allows-all-devices": Fault("res.devices", "devices::unlisted_devices_cannot_be_opened", edit.allow_all_devices),
    "overlooks-huge-pages": Fault(
        "res.hugetlb", "resources::unknown_page_size_is_an_error", edit.without("linux", "resources", "hugepageLimits")
    ),
    "overlooks-memory-limits": Fault(
        "res.memory", "resources::memory_limit_is_enforced", edit.without("linux", "resources", "memory")
    ),
    "overlooks-network-classes": Fault(
        "res.network", "resources::class_id_is_written", edit.without("linux", "resources", "network")
    ),
    "counts-pids-wrong": Fault(
        "res.pids", "resources::pids_limit_is_written[res.pids.limit@20]", edit.one_more_process
    ),
    "overlooks-rdma": Fault(
        "res.rdma", "block_and_more::empty_rdma_entry_is_an_error", edit.without("linux", "resources", "rdma")
    ),
    "overlooks-unified": Fault(
        "res.unified",
        "block_and_more::unified_file_that_does_not_exist_is_an_error",
        edit.without("linux", "resources", "unified"),
    ),
    "leaves-the-root-writable": Fault(
        "root", "bundle::readonly_root_cannot_be_written", edit.without("root", "readonly")
    ),
    "filters-nothing": Fault("seccomp", "seccomp::rule_is_applied", edit.without("linux", "seccomp")),
    "loses-metadata": Fault(
        "seccomp-notify",
        "seccomp_notify::metadata_arrives[seccomp.listenerMetadata]",
        edit.without("linux", "seccomp", "listenerMetadata"),
    ),
    "tells-another-id": Fault("state", "state::state_has_the_id", behaviour=do.changed("state", "id", "other")),
    "always-says-running": Fault(
        "state", "state::status_after_create", behaviour=do.changed("state", "status", "running")
    ),
    "sets-no-sysctl": Fault("sysctl", "filesystem::sysctl_is_set_inside_only", edit.without("linux", "sysctl")),
    "shifts-no-clocks": Fault(
        "timens", "namespaces::clocks_are_shifted[timens.timeOffsets.secs@plus]", edit.without("linux", "timeOffsets")
    ),
    "maps-users-wrong": Fault("userns", "namespaces::maps_are_written[userns.uidMappings]", edit.shift_maps),
    "overlooks-the-hostname": Fault("uts", "process::hostname_is_set[hostname@short]", edit.without("hostname")),
    "forgives-wrong-types": Fault(
        "values", "metadata::invalid_values_are_errors[values.invalid@root.readonly]", edit.correct_types
    ),
}
