"""The promises, one line of code that keeps each, and the test that fails without it.

docs/guarantees.md has the same promises in words; tests/unit/tools/test_mutations.py holds this
table to the code, so that a line which was changed takes its row along.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """A line of a file, what stands there instead, and the test that has to fail then."""

    promise: str
    file: str
    line: str
    instead: str
    test: str

    @property
    def name(self) -> str:
        """Return the name of the test's function."""
        return self.test.partition("::")[2]


_PRIVILEGED = "tests/privileged/test_"

TABLE = (
    Mutation(
        "never the bare directory",
        "recover/linux/mounts.py",
        "            exposed = _put_beneath(clone, top, stack[left - 1], root_fd, late)",
        "            return detach(top) or attach_bare(clone, path, root_fd) or left",
        f"{_PRIVILEGED}invariants.py::test_nobody_ever_sees_the_bare_directory",
    ),
    Mutation(
        "never writable where it was not",
        "recover/anchors/shelf.py",
        '        flags = frozenset({"ro"} if self.read_only else ())',
        "        flags = frozenset[str]()",
        f"{_PRIVILEGED}invariants.py::test_nobody_can_ever_write_to_a_read_only_volume",
    ),
    Mutation(
        "two layers at the most",
        "recover/anchors/plan.py",
        "        if len(a.stack) > 1 and is_behind(case, a)",
        "        if not a",
        f"{_PRIVILEGED}layers.py::test_no_copy_has_more_than_two_layers_after_any_number_of_crashes",
    ),
    Mutation(
        "a hung daemon keeps nobody from ending",
        "recover/linux/probe.py",
        "    return probehelper.there(_ask, Descriptor(fd))",
        "    return _ask(fd)",
        f"{_PRIVILEGED}unkillable.py::"
        "test_a_plugin_that_asks_a_silent_daemon_ends_and_the_next_one_serves",
    ),
    Mutation(
        "a hung daemon keeps nobody from ending",
        "recover/linux/resolve.py",
        "    if probehelper.is_bound():",
        "    if False:",
        f"{_PRIVILEGED}unkillable.py::test_a_walk_to_a_sub_path_that_never_ends_keeps_no_plugin",
    ),
    Mutation(
        "a hung daemon keeps nobody from ending",
        "recover/linux/probechild.py",
        "    os.closerange(0, number)",
        "    pass",
        f"{_PRIVILEGED}unkillable.py::"
        "test_when_the_one_that_asks_is_killed_while_it_sleeps_another_one_asks",
    ),
    Mutation(
        "success is what was seen",
        "recover/visits/tour.py",
        "    if not reply.alive:",
        "    if not reply:",
        f"{_PRIVILEGED}invariants.py::"
        "test_a_path_that_does_not_answer_after_the_swap_is_no_success",
    ),
    Mutation(
        "only what is ours",
        "recover/linux/mounts.py",
        "    if found != (expected.mnt_id, expected.dev):",
        "    if not found:",
        f"{_PRIVILEGED}mounts.py::"
        "test_a_swap_of_what_is_there_no_more_is_refused_and_changes_nothing",
    ),
    Mutation(
        "only what is ours",
        "recover/linux/resolve.py",
        "    return open_at(root_fd, path, NO_LINKS | inside)",
        "    return open_at(root_fd, path, inside)",
        "tests/unit/test_resolve.py::test_a_place_in_a_container_is_opened_without_any_link",
    ),
    Mutation(
        "unpublish wins",
        "recover/anchors/execute.py",
        "            if step.target and self._store.publication(step.target) is None:",
        "            if False:",
        f"{_PRIVILEGED}heal_unpublish.py::"
        "test_a_bare_target_that_is_unpublished_meanwhile_is_not_mounted",
    ),
    Mutation(
        "a live old generation is left alone",
        "recover/anchors/plan.py",
        "    return {anchor.base.dev, anchor.top.dev} <= case.dead",
        "    return bool(anchor)",
        f"{_PRIVILEGED}invariants.py::test_an_old_daemon_that_lives_keeps_its_copies",
    ),
    Mutation(
        "nothing while nothing happens",
        "recover/heal.py",
        "            and self.is_whole",
        "            and not self.is_whole",
        f"{_PRIVILEGED}invariants.py::"
        "test_a_tick_at_rest_costs_the_same_for_any_number_of_publications",
    ),
    Mutation(
        "nothing is left weaker",
        "recover/visits/plan.py",
        "        if namespace in case.foreign:",
        "        if False:",
        f"{_PRIVILEGED}heal_locked.py::"
        "test_a_private_copy_that_would_not_be_locked_is_left_and_told",
    ),
    Mutation(
        "nothing is left weaker",
        "recover/reach.py",
        '_RESTRICTIONS = frozenset({"ro", "nosuid", "nodev", "noexec", "idmapped"})',
        '_RESTRICTIONS = frozenset({"ro", "nosuid", "nodev", "noexec"})',
        f"{_PRIVILEGED}heal_locked.py::"
        "test_a_copy_that_shows_other_owners_never_shows_the_real_ones",
    ),
    Mutation(
        "nothing is left weaker",
        "recover/anchors/shelf.py",
        '        return Attributes(flags, "shared", keep=True)',
        '        return Attributes(flags, "slave-shared", keep=True)',
        f"{_PRIVILEGED}heal_locked.py::test_nothing_is_made_a_slave_of_the_source",
    ),
    Mutation(
        "who misbehaves pays alone",
        "recover/visits/trip.py",
        "        return left[0].namespace.inode if left else None",
        "        return None",
        f"{_PRIVILEGED}heal_hung.py::test_many_pods_whose_paths_hang_leave_the_others_alone",
    ),
    Mutation(
        "who misbehaves pays alone",
        "recover/visits/plan.py",
        "        found += [_for_copy(case, copy, origins) for copy in copies[:MOST]]",
        "        found += [_for_copy(case, copy, origins) for copy in copies]",
        "tests/unit/visits/test_plan.py::"
        "test_of_very_many_copies_in_one_namespace_the_first_are_healed_and_the_rest_told_once",
    ),
    Mutation(
        "who misbehaves pays alone",
        "recover/anchors/execute.py",
        "            if hanging >= most_hanging:",
        "            if False:",
        f"{_PRIVILEGED}heal_hung.py::"
        "test_many_paths_of_the_node_over_a_hung_dataset_leave_the_others_alone",
    ),
    Mutation(
        "nothing while nothing happens",
        "recover/loop.py",
        "        return self.is_busy or self.healer.is_waiting or not self._is_watched",
        "        return self.healer.is_waiting or not self._is_watched",
        f"{_PRIVILEGED}resources.py::"
        "test_in_a_storm_of_mounts_of_others_heals_go_on_and_nothing_is_looked_at",
    ),
    Mutation(
        "nothing while nothing happens",
        "recover/loop.py",
        "            if self._is_well(source):  # others may mount hundreds of times a second",
        "            if False:",
        f"{_PRIVILEGED}resources.py::"
        "test_where_no_event_tells_what_was_mounted_a_storm_is_looked_at_now_and_then",
    ),
    Mutation(
        "kill -9 is repaired by the next start",
        "recover/anchors/keeper.py",
        "            if row.number and row.source not in used:  # sidecars' have no number",
        "            if False:",
        f"{_PRIVILEGED}calls_killed.py::test_the_last_unpublish_killed_before_any_step",
    ),
    Mutation(
        "a daemon that comes back early is not kept waiting",
        "recover/holds.py",
        "                    self._client.cleared(source, newest)",
        "                    pass",
        "tests/privileged/seamless/test_holding.py::"
        "test_a_daemon_that_comes_before_the_dead_mount_is_cleared_waits_no_longer",
    ),
    Mutation(
        "a pod sees what was published",
        "csi_fluid/volumes/publish.py",
        "        self._pods.check(target, is_mount=wanted.method is Method.BIND, asked=asked)",
        "        pass",
        f"{_PRIVILEGED}unseen.py::"
        "test_a_publish_that_no_pod_would_see_is_refused_and_makes_nothing",
    ),
    Mutation(
        "what is shared with nobody is not published",
        "recover/linux/namespaces.py",
        "    return any(mark in _table(other) for other in others())",
        "    return True",
        f"{_PRIVILEGED}places.py::test_what_is_not_passed_on_to_the_node_is_not_published",
    ),
    Mutation(
        "after a reboot nothing is mounted unasked",
        "recover/reconcile.py",
        "            left = tuple(filter(_is_of_a_mount_gone, self.parts.store.publications()))",
        "            left = ()",
        f"{_PRIVILEGED}reboot.py::"
        "test_after_a_reboot_nothing_is_mounted_unasked_and_all_works_again",
    ),
)
