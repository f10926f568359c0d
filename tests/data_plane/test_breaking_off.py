"""Providers that break their answers off, and errors that no stage can word any more: told in the client's own words."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.data_plane_judge import in_words
from tests.data_plane import upstream as up
from tests.data_plane.conftest import CONFIG, running

ROUNDS = 4
FAULTS = ("reset_mid", "garbage")
_NAMES = [f"{kind}x{number}" for kind in ("oa", "an") for number in range(len(FAULTS) * ROUNDS)]
_BACKENDS = "".join(
    f'  {name}: {{{{schema: {"openai" if name.startswith("oa") else "anthropic"}, location: cloud, base_url: '
    f'"http://127.0.0.1:{{up}}/{name}{"/v1" if name.startswith("oa") else ""}"}}}}\n' for name in _NAMES)
"""One for each round: Envoy leaves alone for a while what broke off."""


@pytest.fixture(scope="module")
def own(_upstream):
    """A gateway of its own, whose deadlines are out of the way."""
    patient = CONFIG.replace("timeout: 1s", "timeout: 30s").replace("timeout: 2s", "timeout: 30s")
    with running(_upstream, template=patient.replace("chains:\n", f"{_BACKENDS}chains:\n")) as plane:
        yield plane
    _upstream.reset()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_provider_that_breaks_off_while_nobody_looks(own, fault):
    """The answer's headers were let through to the request stage, whose worker stands still; now the provider breaks off.
    No stage can word that error any more, and yet every client gets it in its own words."""
    broken: dict[bool, list[str]] = {True: [], False: []}
    for number in range(FAULTS.index(fault) * ROUNDS, (FAULTS.index(fault) + 1) * ROUNDS):
        own.upstream.reset()
        own.upstream.always[f"oax{number}"] = up.openai_sse("a", "b", first_pause=0.5, fault=fault)
        own.upstream.always[f"anx{number}"] = up.anthropic_sse("a", "b", first_pause=0.5, fault=fault)
        worker = own.pids("worker-0.sock")[0]
        with ThreadPoolExecutor(24) as pool:
            asked = [(anthropic, pool.submit(own.message if anthropic else own.chat,
                                             f"{'an' if anthropic else 'oa'}x{number}/m", stream=True))
                     for anthropic in (True, False) * 12]
            time.sleep(0.3)
            os.kill(worker, signal.SIGSTOP)  # those whose request stage is here, and whose attempts are not
            time.sleep(0.9)
            os.kill(worker, signal.SIGCONT)
            for anthropic, future in asked:
                answer = future.result()
                if answer.status != 200:
                    assert answer.status == 503
                    assert in_words(answer.body, anthropic=anthropic), answer.text
                    broken[anthropic].append(answer.json["error"]["message"])
        if all("the provider broke its answer off; send it again" in told for told in broken.values()):
            return
    raise AssertionError(f"it never happened: {broken}")


@pytest.mark.parametrize("anthropic", [True, False])
def test_a_providers_own_502(own, anthropic):
    """A 502 that a provider answers itself moves the request on; of the last backend it reaches the client as it is."""
    own.upstream.reset()
    chain = "an" if anthropic else "oa"
    words = up.error(502, "our upstream is down", "api_error")
    if anthropic:
        words.chunks = [b'{"type":"error","error":{"type":"api_error","message":"our upstream is down"}}']
    own.upstream.always |= {f"{chain}0": words, f"{chain}1": words}
    answer = own.message(chain) if anthropic else own.chat(chain)
    assert (answer.status, answer.headers["x-extproc-backend"]) == (502, f"{chain}1")
    assert answer.json["error"]["message"] == "our upstream is down"
    assert [seen.backend for seen in own.upstream.seen] == [f"{chain}0", f"{chain}1"]
