"""Admission reviews: every one is answered, none keeps a pod from starting."""

import base64
import json
import os
import re
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from csi_fluid.cli import agent as command
from csi_fluid.webhook import review, rules
from tests.harness import jsonpatch
from tests.unit import webhooks
from tests.unit.webhooks import IMAGE, injected, pod

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def asked(found, **more):
    request = {
        "uid": "705ab4f5",
        "operation": "CREATE",
        "namespace": "walk2",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "object": found,
        **more,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def decide(found):
    return rules.decide(found, IMAGE)


def answered(question, decide=decide):
    answer = review.answer(json.dumps(question).encode(), decide)
    return answer.result, json.loads(answer.body)["response"]


def test_the_answer_carries_the_uid_and_a_patch_that_the_api_server_can_apply():
    found = injected(pod("demo-dataset"))

    result, response = answered(asked(found))

    patch = json.loads(base64.b64decode(response["patch"]))
    assert result == "added"
    assert response["uid"] == "705ab4f5"
    assert response["patchType"] == "JSONPatch"
    assert jsonpatch.apply(found, patch) == webhooks.patched(found)


def test_an_answer_without_changes_has_no_patch():
    _, response = answered(asked(pod("demo-dataset", annotations={})))

    assert response == {"uid": "705ab4f5", "allowed": True}


def test_a_dry_run_is_answered_like_any_other():
    found = injected(pod("demo-dataset"))

    assert answered(asked(found, dryRun=True)) == answered(asked(found))


@pytest.mark.parametrize(
    "more",
    [
        {"operation": "UPDATE"},
        {"subResource": "ephemeralcontainers"},
        {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}},
    ],
)
def test_nothing_but_a_new_pod_is_changed(more: dict[str, object]):
    result, response = answered(asked(injected(pod("demo-dataset")), **more))

    assert (result, response) == ("unasked", {"uid": "705ab4f5", "allowed": True})


def test_a_warning_is_short_and_printable_and_all_of_them_are_not_too_long():
    containers = [webhooks.app("part", name=f"app-{number}") for number in range(40)]
    for each in containers:
        each["volumeMounts"][0]["mountPath"] = "/f\n" + "ü" * 300

    _, response = answered(asked(injected(pod("part", containers=containers))))

    assert all(len(w.encode()) <= 256 and w.isprintable() for w in response["warnings"])
    assert 2 < len("".join(response["warnings"]).encode()) <= 4096


@pytest.mark.expects_log("could not be looked at")
def test_an_error_of_our_own_lets_the_pod_through_with_a_warning():
    def broken(_):
        raise RuntimeError

    result, response = answered(asked(pod("demo-dataset")), broken)

    assert result == "error"
    assert response["allowed"] is True
    assert "RuntimeError" in response["warnings"][0]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b'{"kind":"AdmissionReview"}'],
)
def test_what_is_no_review_is_refused_as_such(body: bytes):
    with pytest.raises(review.Malformed):
        review.answer(body, decide)


@pytest.mark.parametrize("version", ["admission.k8s.io/v1beta1", "v1"])
def test_another_version_is_refused(version: str):
    question = asked(pod("demo-dataset")) | {"apiVersion": version}

    with pytest.raises(review.Malformed, match=r"admission\.k8s\.io/v1"):
        answered(question)


@given(JSON)
def test_any_object_is_allowed(found):
    _, response = answered(asked(found))

    assert response["allowed"] is True


@given(JSON)
def test_any_review_is_answered_or_refused(found):
    question = asked({}) | {"request": found}

    try:
        _, response = answered(question)
    except review.Malformed:
        return
    assert response["allowed"] is True


HOSTILE = st.one_of(
    st.text(max_size=12),  # with lone surrogates, which JSON can carry
    st.sampled_from(["..", "/", "/..", "a/../../b", "a\nb", " ", "\\012", "=", ":ro", "-", "\0"]),
    st.sampled_from(["a" * 63, "a" * 64, "/" + "a" * 4095, "/a" * 2048, "é" * 4096]),
)


def texts(found: Any) -> set[str]:
    """Return every text of a JSON value, but for the keys."""
    if isinstance(found, dict | list):
        inner = found.values() if isinstance(found, dict) else found
        return set().union(*map(texts, inner))
    return {found} if isinstance(found, str) else set()


def with_texts(found: Any, new: dict[str, str]) -> Any:
    """Return a JSON value with some of its texts replaced wherever they stand."""
    if isinstance(found, dict):
        return {key: with_texts(value, new) for key, value in found.items()}
    if isinstance(found, list):
        return [with_texts(value, new) for value in found]
    return new.get(found, found) if isinstance(found, str) else found


@settings(max_examples=300)
@given(st.data())
def test_whatever_its_texts_are_a_pod_gets_an_agent_for_its_own_paths_or_none(data):
    found = injected(pod("demo-dataset", "juice"))
    replaced = st.dictionaries(st.sampled_from(sorted(texts(found))), HOSTILE, max_size=3)
    found = with_texts(found, data.draw(replaced))

    result, response = answered(asked(found))

    assert response["allowed"] is True
    assert all(w.isprintable() and len(w.encode()) <= 256 for w in response.get("warnings", ()))
    made = jsonpatch.apply(found, json.loads(base64.b64decode(response.get("patch", "W10="))))
    volumes = {v["name"]: v.get("hostPath", {}).get("path") for v in found["spec"]["volumes"]}
    for agent in webhooks.agents(made) if result == "added" else ():
        shown = {m["mountPath"]: volumes[m["name"]] for m in agent["volumeMounts"][1:]}
        assert all(re.fullmatch(r"/fluid/[a-z0-9-]+", path) for path in shown)
        words = [w.removeprefix("--mount=") for w in agent["args"] if w.startswith("--mount=")]
        for target in command._targets(words):
            (around,) = (path for path in shown if target.mount_point.startswith(f"{path}/"))
            below = target.mount_point.removeprefix(around)
            assert target.host_path == os.path.normpath("/" + f"{shown[around]}{below}".lstrip("/"))
