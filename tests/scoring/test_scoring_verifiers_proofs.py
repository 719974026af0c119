"""Z3 in the loop: three outcomes, three rewards, Python's own arithmetic, and nobody proves an easier statement."""

import itertools
import random

import pytest

from rung.base.errors import SettingsError
from rung.records.contracts import Item, Trace
from rung.scoring.apart.client import shared
from rung.scoring.proving import ProofSettings, Prover
from rung.scoring.verifiers.z3_identity import Z3Identity
from rung.scoring.verifiers.z3_program import Z3Program
from rung.scoring.verifiers.z3_property import Z3Property

HARD = "(x*x*x + y*y*y + z*z*z == 42)"


def score(kind, reply, **settings):
    built = kind(kind.Settings.model_validate(settings))
    return built.score([Item("i", "Do it.")], [Trace("i", reply)])[0]


def test_item_437_proved_refuted_with_a_counter_example_and_unknown():
    assert score(Z3Identity, "x^2 + 2*x + 1", left="(x+1)**2").value == 1.0
    wrong = score(Z3Identity, "x^2 + 1", left="(x+1)**2")
    assert wrong.value == 0.0
    assert "fails for x = " in wrong.reason
    point = int(wrong.reason.rpartition("= ")[2])
    assert (point + 1) ** 2 != point**2 + 1
    hard = score(Z3Identity, "False", left=HARD, proof={"effort": 20_000})
    assert hard.abstained
    assert "unknown" in hard.reason


def test_item_440_three_outcomes_earn_three_rewards_and_unknown_never_the_highest():
    earned = {"proved": 1.0, "unknown": 0.2, "refuted": 0.0, "effort": 20_000}
    values = [
        score(Z3Identity, "2*x", left="x + x", proof=earned).value,
        score(Z3Identity, "False", left=HARD, proof=earned).value,
        score(Z3Identity, "3*x", left="x + x", proof=earned).value,
    ]
    assert values == [1.0, 0.2, 0.0]
    with pytest.raises(SettingsError, match="unknown earns"):
        ProofSettings(unknown=0.9, proved=0.8)


CLAMP = {
    "signature": "clamp(x, low, high)",
    "requires": "low <= high",
    "ensures": "low <= result <= high and (result == x or x < low or x > high)",
}


def test_item_439_an_off_by_one_function_is_refuted_with_the_failing_input():
    good = (
        "def clamp(x, low, high):\n    if x < low:\n        return low\n"
        "    if x > high:\n        return high\n    return x"
    )
    assert score(Z3Program, good, **CLAMP).value == 1.0
    bad = good.replace("x > high", "x > high + 1")
    found = score(Z3Program, bad, **CLAMP)
    assert found.value == 0.0
    values = dict(part.split(" = ") for part in found.reason.partition("for ")[2].split(", "))
    x, low, high = (int(values[name]) for name in ("x", "low", "high"))
    assert low <= high
    assert x == high + 1


@pytest.mark.parametrize(
    "cheat",
    [
        "def clamp(x, low, high):\n    assert low == high == x\n    return x",
        "def clamp(x, low, high):\n    while True:\n        pass",
        "def clamp(x, low=0, high=0):\n    return max(low, min(x, high))",
        "def clamp(low, x, high):\n    return max(low, min(x, high))",
        "requires = 'False'\ndef clamp(x, low, high):\n    return 0",
        "def clamp(x, low, high):\n    return clamp(x, low, high)",
        "def clamp(x, low, high):\n    return x.__class__",
        "def clamp(x, low, high):\n    raise ValueError",
        "def clamp(x, low, high):\n    return 1 // 0",
        "def other(x, low, high):\n    return max(low, min(x, high))",
        "@cache\ndef clamp(x, low, high):\n    return max(low, min(x, high))",
    ],
)
def test_item_441_a_weaker_or_changed_statement_gets_nothing(cheat):
    assert score(Z3Program, cheat, **CLAMP).value == 0.0


@pytest.mark.parametrize("reply", ["0 = 0", "x == x", "x*(x+1) = x*(x+1)", "True", "x*(x+1)"])
def test_item_441_proving_another_identity_gets_nothing(reply):
    assert score(Z3Identity, reply, left="x*(x+1)", form="collected").value == 0.0


def test_contradictory_premises_prove_nothing():
    found = score(Z3Program, "def f(x): return x", signature="f(x)", requires="x > x", ensures="result > x")
    assert found.abstained
    assert "vacuous" in found.reason


def test_machine_integers_wrap_and_unbounded_ones_do_not():
    contract = {"signature": "f(x)", "ensures": "result > x"}
    assert score(Z3Program, "def f(x): return x + 1", **contract).value == 1.0
    wrapped = score(Z3Program, "def f(x): return x + 1", **contract, proof={"domain": "bits8"})
    assert wrapped.value == 0.0
    assert "x = 127" in wrapped.reason


def test_a_counter_example_must_really_be_one():
    settings = {"source": "def f(x):\n    return x * x - x", "claim": "result > 0", "assume": "x >= 0"}
    assert score(Z3Property, "It fails for x = 1", **settings).value == 1.0
    assert score(Z3Property, "It fails for x = 2", **settings).value == 0.0
    assert score(Z3Property, "It fails for x = -1", **settings).value == 0.0
    assert score(Z3Property, "It fails for y = 1", **settings).value == 0.0
    assert score(Z3Property, "always", **settings).value == 0.0


def random_function(rng):
    """Source of a function of a and b in the small language, with branches, loops, division and early returns."""

    def expression(depth):
        """An expression that cannot divide by zero."""
        if depth == 0:
            return rng.choice(["a", "b", "t", str(rng.randint(-7, 7))])
        one, two = expression(depth - 1), expression(depth - 1)
        return rng.choice(
            [
                f"({one} + {two})", f"({one} - {two})", f"({one} * {rng.randint(-3, 3)})", f"abs({one})",
                f"({one} // {rng.choice([-3, -2, 2, 5])})", f"({one} % {rng.choice([-4, -3, 2, 7])})",
                f"min({one}, {two})", f"max({one}, {two})", f"({one} if {one} < {two} else {two})", f"-{one}",
            ]
        )  # fmt: skip

    return (
        f"def f(a, b):\n    t = {rng.randint(-5, 5)}\n"
        f"    if {expression(1)} > {expression(1)} and not a == b:\n        t = {expression(2)}\n"
        f"    elif a <= {rng.randint(-3, 3)} < b:\n        return {expression(2)}\n"
        f"    for i in range({rng.randint(0, 3)}):\n        t += {expression(1)} - i\n"
        f"        if t > {rng.randint(5, 40)}:\n            return t\n"
        f"    return {expression(2)}\n"
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_translation_agrees_with_python(seed):
    """What Z3 says of a function at a point is what Python computes there: division, branches and loops included."""
    rng = random.Random(seed)
    source = random_function(rng)
    space = {}
    exec(source, space)  # the test's own text
    for a, b in itertools.islice(itertools.product(range(-9, 10, 4), range(-7, 8, 5)), 0, None, 3):
        value = space["f"](a, b)
        contract = {"signature": "f(a, b)", "requires": f"a == {a} and b == {b}", "ensures": f"result == {value}"}
        found = score(Z3Program, source, **contract)
        assert found.value == 1.0, (source, a, b, value, found.reason)


def test_item_442_answers_are_remembered_and_the_time_is_accounted_for():
    own = Prover(shared("proofs"))
    ask = {"kind": "identity", "left": "x + x", "right": "2*x", "assume": "True", "variables": ["x"]}
    first, again = own.prove(ask, ProofSettings()), own.prove(ask, ProofSettings())
    other = own.prove({**ask, "right": "3*x"}, ProofSettings())
    assert (first.known, again.known, other.outcome) == (False, True, "refuted")
    proved, refuted = own.table()
    assert (proved.outcome, proved.queries, proved.known) == ("proved", 2, 1)
    assert proved.seconds == pytest.approx(first.seconds)
    assert refuted.queries == 1
    small = Prover(shared("proofs"), kept=1)
    assert [small.prove({**ask, "right": f"{n}*x"}, ProofSettings()).known for n in (2, 3, 2)] == [False] * 3


def test_item_442_effort_is_bounded_and_the_verdict_is_the_same_each_time():
    ask = {"kind": "identity", "left": HARD, "right": "False", "assume": "True", "variables": ["x", "y", "z"]}
    found = [Prover(shared("proofs")).prove(ask, ProofSettings(effort=30_000)) for _ in range(3)]
    assert {proof.outcome for proof in found} == {"unknown"}
    assert len({proof.reason for proof in found}) == 1
    killed = Prover(shared("proofs")).prove(ask, ProofSettings(effort=2_000_000_000, seconds=0.3))
    assert killed.outcome == "unknown"
    assert "processor time" in killed.reason
