"""Admission reviews: every one is answered, none keeps a pod from starting."""

import base64
import json

import pytest
from hypothesis import given, strategies as st

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
    name = "f\n" + "ü" * 300
    containers = [webhooks.app("part", name=f"{name}{number}") for number in range(40)]

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
