"""What clients say of answers: the path, the body, whose request it is, what the word counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import feedback
from extproc.core.endpoints import find
from extproc.core.errors import RequestError
from extproc.core.feedback import Feedback, learnable, owns, parse, unknown
from extproc.core.identity import Caller
from extproc.core.routing.explanation import Whose

RID = "0192f0c1a2b37c4d8e5f60718293a4b5"


def body(**fields: object) -> bytes:
    """A good body, but for what is given."""
    return json.dumps({"request_id": RID, "rating": "good"} | fields).encode()


@pytest.mark.parametrize(("method", "path", "kind"), [
    ("POST", "/v1/feedback", "feedback"), ("POST", "/v1/feedback?x=1", "feedback"), ("POST", "/feedback", "feedback"),
    ("POST", "/v1/v1/feedback", "feedback"), ("POST", "/v1/smart/feedback", "feedback"),
    ("OPTIONS", "/v1/feedback", "options"), ("GET", "/v1/feedback", "unknown"), ("PUT", "/v1/feedback", "unknown"),
    ("POST", "/v1/feedback/", "unknown"), ("POST", "/v1/feedbacks", "unknown"),
])
def test_path(method: str, path: str, kind: str) -> None:
    """Feedback is posted to its own path, with the prefixes that other paths have."""
    assert find({":method": method, ":path": path}).kind == kind


@pytest.mark.parametrize(("rating", "number"), [("good", 1.0), ("bad", 0.0), (0, 0.0), (1, 1.0), (0.25, 0.25)])
def test_ratings(rating: object, number: float) -> None:
    """A rating is a word or a number from 0 to 1."""
    assert parse(body(rating=rating)) == Feedback(RID, number)


@pytest.mark.parametrize("reason", ["wrong", "incomplete", "slow", "refused", "format", "other", None])
def test_reasons(reason: str | None) -> None:
    """A reason is one of a few words, or left out."""
    assert parse(body(rating="bad", reason=reason)).reason == reason


@pytest.mark.parametrize(("sent", "param", "told"), [
    (body(rating="great"), "rating", "expected good, bad, or a number from 0 to 1"),
    (body(rating=True), "rating", "expected good"), (body(rating=None), "rating", "expected good"),
    (body(rating=1.01), "rating", "expected good"), (body(rating=-0.01), "rating", "expected good"),
    (body(rating=["good"]), "rating", "expected good"),
    (body(request_id=RID.upper()), "request_id", "32 hexadecimal digits"),
    (body(request_id=RID + "0"), "request_id", "32 hexadecimal digits"),
    (body(request_id=""), "request_id", "32 hexadecimal digits"),
    (body(request_id=7), "request_id", "32 hexadecimal digits"),
    (body(request_id="*" * 32), "request_id", "32 hexadecimal digits"),
    (body(reason="because"), "reason", "wrong, incomplete, slow, refused, format, other"),
    (body(comment="my prompt was"), "comment", "no field of a feedback; allowed: request_id, rating, reason"),
    (b'{"rating": "good"}', "request_id", "request_id is required"),
    (b'{"request_id": "%s"}' % RID.encode(), "rating", "rating is required"),
    (b'{"rating": "good", "rating": "bad", "request_id": "%s"}' % RID.encode(), "rating", "duplicate field"),
    (b"", None, "not valid JSON"), (b"[]", None, "must be a JSON object"), (b"good", None, "not valid JSON"),
    (b'{"rating": NaN}', None, "not valid JSON"), (b"[" * 4_000, None, ""), (b"\xff\xfe{}", None, "not valid JSON"),
])
def test_refused(sent: bytes, param: str | None, told: str) -> None:
    """Anything else is the client's error, with the field that is wrong and what is allowed."""
    with pytest.raises(RequestError) as caught:
        parse(sent)
    problem = caught.value.problem
    assert (problem.http_status, problem.param) == (400, param)
    assert told in problem.message


def test_too_large() -> None:
    """A body is small."""
    with pytest.raises(RequestError) as caught:
        parse(body(reason="x" * 5_000))
    assert caught.value.problem.http_status == 413


@given(st.one_of(st.binary(max_size=300), st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.sampled_from(["request_id", "rating", "reason", "`"]), inner)),
).map(lambda value: json.dumps(value).encode())))
def test_anything(sent: bytes) -> None:
    """Any bytes are a feedback or the client's error, nothing else."""
    try:
        assert 0 <= parse(sent).rating <= 1
    except RequestError as error:
        assert error.problem.http_status in (400, 413)
        assert len(error.problem.message) < 300


@pytest.mark.parametrize(("owner", "mine"), [
    (Whose("o", "t", "k"), True), (Whose("o2", "t", "k"), False), (Whose("o", "t2", "k"), False),
    (Whose("o", "t", "k2"), False), (Whose("o", "t"), False), (None, False),
])
def test_own_requests_only(owner: Whose | None, mine: bool) -> None:
    """Org, team and key must be the caller's."""
    assert owns(owner, Caller(org="o", team="t", key="k", user="any")) is mine


def test_unknown() -> None:
    """A request that nobody knows and one of somebody else give the same 404."""
    problem = unknown(RID).problem
    assert (problem.http_status, problem.param, problem.message) == (
        404, "request_id", f"no request {RID} of this key is remembered")


@pytest.mark.parametrize(("rating", "reason", "counts"), [
    (1.0, None, (True, 5, "feedback")), (0.0, "wrong", (False, 5, "feedback")), (0.7, None, (True, 2, "feedback")),
    (0.2, None, (False, 3, "feedback")), (0.5, None, None), (0.52, None, None), (0.0, "slow", None),
])
def test_what_it_counts(rating: float, reason: feedback.Reason | None, counts: tuple[bool, int, str] | None) -> None:
    """A plain word weighs five outcomes, a doubtful one less; one in the middle, or on speed alone, nothing."""
    assert learnable(Feedback(RID, rating, reason)) == counts


def test_accepted() -> None:
    """The answer to a word that was taken."""
    assert json.loads(feedback.ACCEPTED) == {"status": "accepted"}
